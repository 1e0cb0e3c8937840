"""Bring a remote checkpoint onto the SSD: `download(url, destination)`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loaders.errors import CheckpointExistsError, LoaderError, RemoteChangedError
from loaders.format.manifest import Manifest
from loaders.format.validate import open_checkpoint
from loaders.reading.pipeline import Cancel, LoadControl, Progress
from loaders.remote.filling import fill_copies
from loaders.remote.folder import DownloadFolder
from loaders.remote.retries import RetryPolicy
from loaders.remote.source import DEFAULT_CONNECTIONS, open_remote
from loaders.remote.url import RemoteUrl, parse_url

#: How often a checkpoint may change under a download before it is given up.
_MAX_BEGINNINGS = 3
#: Endings of files with weights.
_DATA = {".bin", ".safetensors"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadReport:
    """What a download did."""

    #: Size of the data files.
    num_bytes: int
    #: Bytes that came over the network this time; fewer where an earlier download was continued.
    received_bytes: int
    seconds: float
    #: None for a directory with .safetensors files.
    manifest: Manifest | None


def download(
    url: str,
    destination: Path,
    *,
    num_connections: int = DEFAULT_CONNECTIONS,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
    policy: RetryPolicy | None = None,
) -> DownloadReport:
    """Fetch a checkpoint of either form; it appears at the destination complete and durable, or not at all.

    Chunks go to the disk as they arrive, in any order, and are compared with their digests where there are any. What
    arrived before a failure, a kill or a cancel stays in `.<name>.download` beside the destination; the same call goes
    on from there, but for files that have changed since. Holds a chunk for each connection in memory, and two.

    Args:
        url: where its directory is: `file://`, `http://`, `https://` or `s3://`.
        destination: a directory that does not exist, or is this very checkpoint already.
        num_connections: how many chunks are under way at once.
        on_progress: called with bytes done and bytes in all, some times a second, from this thread.
        cancel: stops the download at once when it is set.
        policy: how long to put up with a server that does not answer.

    Raises:
        CheckpointExistsError: the destination is something else.
        ConversionBusyError: another process writes to it.
        LoadCanceledError: as was asked for.
        CheckpointMissingError, RemoteRefusedError, RemoteUnavailableError, RemoteError: what the server says.
        CheckpointCorruptError: what came is wrong, also when it was fetched again.
        DiskFullError, StorageError: what the disk says.

    """
    parsed = parse_url(url)
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - links in it are the caller's business
    run = _Download(parsed, destination, num_connections, policy)
    for beginning in range(1, _MAX_BEGINNINGS + 1):
        try:
            return run.once(on_progress, cancel)
        except RemoteChangedError:
            if beginning == _MAX_BEGINNINGS:
                raise
    raise AssertionError("unreachable")


class _Download:
    def __init__(self, url: RemoteUrl, destination: Path, num_connections: int, policy: RetryPolicy | None) -> None:
        self._url = url
        self._destination = destination
        self._num_connections = num_connections
        self._policy = policy

    def once(self, on_progress: Callable[[int, int], None] | None, cancel: Cancel | None) -> DownloadReport:
        """Fetch what is missing."""
        started_s = time.monotonic()
        if os.path.lexists(self._destination):
            return self._already_there(started_s)
        with DownloadFolder(self._destination) as folder, open_remote(self._url, folder, self._policy) as remote:
            control = LoadControl(on_progress=_telling(on_progress), cancel=remote.cancel(cancel))
            fill_copies(remote, self._num_connections, control)
            folder.publish()
            return DownloadReport(
                num_bytes=remote.source.plan.num_bytes,
                received_bytes=remote.fetcher.received_bytes,
                seconds=time.monotonic() - started_s,
                manifest=remote.manifest,
            )

    def _already_there(self, started_s: float) -> DownloadReport:
        """Accept the very checkpoint; raises CheckpointExistsError for anything else."""
        refusal = CheckpointExistsError(f"{self._destination}: exists, and is not the checkpoint at {self._url}")
        with DownloadFolder(self._destination) as folder:
            was_published = folder.was_published
            folder.discard()
        manifest = _manifest(self._destination)
        if not was_published:
            if manifest is None:
                raise refusal
            with open_remote(self._url, None, self._policy) as remote:
                if remote.manifest is None or remote.manifest.digest != manifest.digest:
                    raise refusal
        num_bytes = sum(path.stat().st_size for path in self._destination.iterdir() if path.suffix in _DATA)
        return DownloadReport(
            num_bytes=num_bytes, received_bytes=0, seconds=time.monotonic() - started_s, manifest=manifest
        )


def _telling(on_progress: Callable[[int, int], None] | None) -> Callable[[Progress], None] | None:
    if on_progress is None:
        return None
    return lambda progress: on_progress(progress.done_bytes, progress.total_bytes)


def _manifest(path: Path) -> Manifest | None:
    try:
        with open_checkpoint(path) as opened:
            return opened.manifest
    except LoaderError:
        return None
