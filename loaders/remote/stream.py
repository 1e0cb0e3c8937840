"""Load a remote checkpoint while it arrives: chunks are of use long before the last one comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from loaders.building import Building
from loaders.checkpoint import LoadedCheckpoint, load_source
from loaders.devices.loaded import LoadedFrom
from loaders.memory.pool import Pool
from loaders.reading.pipeline import Cancel, LoadControl, Progress
from loaders.remote.filling import fill_copies
from loaders.remote.folder import DownloadFolder
from loaders.remote.retries import RetryPolicy
from loaders.remote.source import DEFAULT_CONNECTIONS, RemoteSource, open_remote
from loaders.remote.url import parse_url
from loaders.templates import Templates


def stream(  # noqa: PLR0913 - all but the URL have defaults that are right for almost everybody
    url: str,
    device: str = "cpu",
    *,
    pool: Pool | None = None,
    destination: Path | None = None,
    with_model: bool = False,
    num_connections: int = DEFAULT_CONNECTIONS,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: Cancel | None = None,
    policy: RetryPolicy | None = None,
) -> LoadedCheckpoint:
    """Read a remote checkpoint to `device`, through the pool if there is one, as `loaders.checkpoint.load` does.

    With a destination the same bytes go to the SSD on their way, and the checkpoint is published there before this
    returns; pieces that an interrupted download has left there are not fetched again.

    Raises what `loaders.remote.download.download` raises, and torch.OutOfMemoryError when the device has no room.
    """
    with ExitStack() as resources:
        folder = None
        if destination is not None:
            # Links in it are the caller's business.
            folder = resources.enter_context(DownloadFolder(Path(os.path.abspath(destination))))  # noqa: PTH100
        remote = resources.enter_context(open_remote(parse_url(url), folder, policy))
        loaded = load_remote(
            remote,
            device,
            pool=pool,
            with_model=with_model,
            num_connections=num_connections,
            on_progress=on_progress,
            cancel=cancel,
        )
        if folder is not None:
            # What somebody else has put into the pool did not pass by here.
            fill_copies(remote, num_connections, LoadControl(cancel=remote.cancel(cancel)))
            folder.publish()
    return loaded


def load_remote(  # noqa: PLR0913 - the choices of `stream`
    remote: RemoteSource,
    device: str | Sequence[str],
    *,
    pool: Pool | None = None,
    with_model: bool = False,
    templates: Templates | None = None,
    num_connections: int = DEFAULT_CONNECTIONS,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: Cancel | None = None,
) -> LoadedCheckpoint:
    """Read a remote checkpoint that is open; raises what `stream` raises."""
    loaded = load_source(
        Building(remote.source, templates, with_model=with_model),
        device,
        pool=pool,
        options=remote.read_options(num_connections),
        # Without a queue: that of the node is for its disk, which this does not read.
        control=LoadControl(on_progress=on_progress, cancel=remote.cancel(cancel)),
    )
    if loaded.report.loaded_from is LoadedFrom.DISK:
        loaded.report = replace(loaded.report, loaded_from=LoadedFrom.REMOTE)
    return loaded
