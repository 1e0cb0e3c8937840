"""A remote checkpoint as a source of loads: opened, checked and planned before its weights are asked for."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loaders.directory import CheckpointDirectory
from loaders.errors import CheckpointUnsupportedError
from loaders.format.manifest import Manifest
from loaders.reading.pipeline import Cancel, ReadOptions
from loaders.reading.plan import Chunk, LoadPlan
from loaders.remote.copies import GrowingCopy
from loaders.remote.fetcher import Fetcher
from loaders.remote.folder import DownloadFolder
from loaders.remote.layout import RemoteLayout, find_layout
from loaders.remote.range_file import RangeFile
from loaders.remote.retries import RetryPolicy
from loaders.remote.scratch import scratch_folder
from loaders.remote.skeleton import write_skeleton
from loaders.remote.transport import Transport
from loaders.remote.transports import open_transport
from loaders.remote.url import RemoteUrl
from loaders.source import Source, open_source

DEFAULT_CONNECTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSource:
    """An open remote checkpoint. Its plan's files are fetched as they are read."""

    #: A directory with all but the weights, for as long as this is open.
    path: Path
    source: Source
    fetcher: Fetcher
    manifest: Manifest | None
    #: Whether all of its data files can be read in parts.
    has_ranges: bool
    #: Whether the server tells when one of them is another file by now; without that no two of its answers are known to
    #: be of the same content.
    has_versions: bool
    #: One for each data file, or none at all.
    copies: Sequence[GrowingCopy]

    def require_manifest(self) -> Manifest:
        """Return the manifest; raises CheckpointUnsupportedError for .safetensors files, which have none."""
        if self.manifest is None:
            raise CheckpointUnsupportedError("a checkpoint of .safetensors files, expected one in our own format")
        return self.manifest

    def is_kept(self, chunk: Chunk) -> bool:
        """Whether a chunk is on the SSD by now."""
        return self.copies[chunk.file].has(chunk.offset)

    def read_options(self, num_connections: int) -> ReadOptions:
        """How the pipeline reads it: digests are compared where the bytes arrive, and may have to be fetched again."""
        # Without ranges the bytes come in order, so they are read in order.
        return ReadOptions(
            num_threads=num_connections if self.has_ranges else 1, chunks_per_read=1, verify=False, page_cache=False
        )

    def cancel(self, wanted: Cancel | None) -> Cancel:
        """Make a wish to stop also wake up whoever waits for the network."""
        return _WakingCancel(wanted, self.fetcher)


@dataclass(frozen=True, slots=True)
class _WakingCancel:
    wanted: Cancel | None
    fetcher: Fetcher

    def is_set(self) -> bool:
        if self.wanted is None or not self.wanted.is_set():
            return False
        self.fetcher.abort()
        return True


@contextmanager
def open_remote(
    url: RemoteUrl, folder: DownloadFolder | None = None, policy: RetryPolicy | None = None
) -> Iterator[RemoteSource]:
    """Fetch everything but the weights of a checkpoint, and check it.

    With a folder, weights that are read are kept there, and those that are there are not fetched again.
    Raises LoaderError, saying what is wrong.
    """
    with open_through(open_transport(url), str(url), folder, policy) as remote:
        yield remote


@contextmanager
def open_through(
    transport: Transport, where: str, folder: DownloadFolder | None = None, policy: RetryPolicy | None = None
) -> Iterator[RemoteSource]:
    """Do the same through a transport, which is closed in the end; `where` names the checkpoint."""
    with ExitStack() as resources:
        fetcher = resources.enter_context(Fetcher(transport, policy))
        if folder is None:
            path = resources.enter_context(scratch_folder())
        else:
            folder.prepare()
            path = folder.checkpoint
        layout = find_layout(fetcher, CheckpointDirectory(path))
        write_skeleton(path, layout, fetcher)
        source = resources.enter_context(open_source(path))
        copies = () if folder is None else folder.open_copies(layout)
        yield RemoteSource(
            path=path,
            source=replace(source, plan=_remote_plan(source.plan, where, layout, fetcher, copies)),
            fetcher=fetcher,
            manifest=layout.manifest,
            has_ranges=all(file.has_ranges for file in layout.data_files),
            has_versions=all(file.version is not None for file in layout.data_files),
            copies=copies,
        )


def _remote_plan(
    plan: LoadPlan, where: str, layout: RemoteLayout, fetcher: Fetcher, copies: Sequence[GrowingCopy]
) -> LoadPlan:
    digests: list[dict[int, int]] = [{} for _ in layout.data_files]
    for chunk in plan.chunks:
        if chunk.digest is not None:
            digests[chunk.file][chunk.offset] = chunk.digest
    files = tuple(
        RangeFile(remote=file, fetcher=fetcher, digests=digests[rank], copy=copies[rank] if copies else None)
        for rank, file in enumerate(layout.data_files)
    )
    return replace(plan, key=plan.key if layout.manifest is not None else _key(where, layout), files=files)


def _key(where: str, layout: RemoteLayout) -> str:
    """Equal for equal content, as far as the server tells; else of this load alone."""
    if any(file.version is None for file in layout.data_files):
        return f"remote-{uuid.uuid4().hex}"
    known = repr((where, [(file.name, file.num_bytes, file.version) for file in layout.data_files]))
    return hashlib.sha256(known.encode()).hexdigest()
