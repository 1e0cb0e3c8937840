"""Convert a model into a checkpoint: `convert(source, destination)`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from loaders.errors import CheckpointExistsError, CheckpointUnsupportedError, LoaderError
from loaders.format.geometry import MAX_TENSOR_INDEX_BYTES, TENSOR_INDEX, model_file
from loaders.format.manifest import Content, FileRecord, Manifest, PartitionRecord
from loaders.format.validate import open_checkpoint
from loaders.writer.chunk_run import ChunkRun, ChunkSink
from loaders.writer.chunks import ChunkAssembler
from loaders.writer.joins import joined_tensors
from loaders.writer.layout import Layout, plan_layout
from loaders.writer.measure import Cancel, measure_packings
from loaders.writer.receive import ROOM_FOR_SMALL_FILES
from loaders.writer.safetensors_source import SafetensorsSource
from loaders.writer.sources import Source
from loaders.writer.state_dict_source import StateDictSource
from loaders.writer.work import WorkFolder


def convert(  # noqa: PLR0913 - all but two have defaults that are right for almost everybody
    source: Path | Mapping[str, torch.Tensor],
    destination: Path,
    *,
    num_partitions: int = 1,
    pack: bool = False,
    num_threads: int = 4,
    origin: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> Manifest:
    """Write a checkpoint; it appears at the destination complete and durable, or not at all.

    Holds one chunk per thread in memory. What was written before a failure, a kill or a cancel stays in
    `.<name>.partial` beside the destination; the same call goes on from there, and needs nothing else to do so.

    Args:
        source: a directory with .safetensors files, or a state dict.
        destination: a directory that does not exist, or is this very checkpoint already.
        num_partitions: gpu ranks to split the layers over.
        pack: whether to pack bfloat16 weights; reads the source twice.
        num_threads: how many chunks are under way at once.
        origin: what the manifest says it was made from; the source, unless given.
        on_progress: called with bytes done and bytes in all, from several threads but one at a time.
        cancel: stops the conversion within a chunk once it is set.

    Raises:
        CheckpointExistsError: the destination is something else.
        ConversionBusyError: another process writes to it.
        ConversionCanceledError: as was asked for.
        DiskFullError, StorageError: what the disks say.
        LoaderError: of other kinds, when the source cannot be used.

    """
    opened: Source = StateDictSource(source) if isinstance(source, Mapping) else SafetensorsSource(Path(source))
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - links in it are the caller's business
    with opened:
        packings = measure_packings(opened, num_threads=num_threads, cancel=cancel) if pack else {}
        names = [tensor.name for tensor in opened.tensors]
        together = () if isinstance(source, Mapping) else joined_tensors(Path(source), names)
        layout = plan_layout(
            opened.tensors,
            opened.storage_bytes,
            num_partitions=num_partitions,
            packings=packings,
            together=together,
        )
        conversion = _Conversion(opened, layout, destination, origin or opened.description)
        if os.path.lexists(destination):
            return conversion.compare(num_threads, on_progress, cancel)
        return conversion.write(num_threads, on_progress, cancel)


class _Conversion:
    """One source, its layout, and where it goes."""

    def __init__(self, source: Source, layout: Layout, destination: Path, origin: str) -> None:
        self._source = source
        self._origin = origin
        self._layout = layout
        self._destination = destination
        self._tensor_index = layout.index.encode()
        if len(self._tensor_index) > MAX_TENSOR_INDEX_BYTES:
            raise CheckpointUnsupportedError(
                f"a tensor index of {len(self._tensor_index)} bytes, expected at most {MAX_TENSOR_INDEX_BYTES}"
            )
        files = {TENSOR_INDEX: self._tensor_index}
        files |= {model_file(name): data for name, data in source.model_files.items()}
        self._files = {
            name: FileRecord(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in files.items()
        }

    def write(
        self, num_threads: int, on_progress: Callable[[int, int], None] | None, cancel: Cancel | None
    ) -> Manifest:
        """Make the checkpoint, or finish it."""
        with WorkFolder(self._destination) as work:
            progress = work.prepare(self._plan())
            small = sum(record.num_bytes for record in self._files.values()) + ROOM_FOR_SMALL_FILES
            data_files = work.open_data(self._layout.sizes, small)
            is_known = self._source.fingerprint is not None
            sink = ChunkSink(data_files, work.record, progress, is_source_known=is_known)
            assembler = ChunkAssembler(self._layout, self._source)
            run = ChunkRun(self._layout.sizes, assembler, sink, on_progress=on_progress, cancel=cancel)
            partitions = run.run(num_threads)
            for file in data_files:
                file.sync()
            self._source.check_unchanged()
            manifest = self._manifest(partitions, progress.created_at)
            work.publish(
                tensor_index=self._tensor_index, model_files=self._source.model_files, manifest=manifest.encode()
            )
        return manifest

    def compare(
        self, num_threads: int, on_progress: Callable[[int, int], None] | None, cancel: Cancel | None
    ) -> Manifest:
        """Return the manifest of what is there if it is what would be written; nothing is."""
        refusal = CheckpointExistsError(f"{self._destination}: exists, and is not the checkpoint that would be written")
        try:
            with open_checkpoint(self._destination) as existing:
                manifest = existing.manifest
        except LoaderError as error:
            raise refusal from error
        if manifest.content.files != self._files:
            raise refusal
        assembler = ChunkAssembler(self._layout, self._source)
        run = ChunkRun(self._layout.sizes, assembler, None, on_progress=on_progress, cancel=cancel)
        partitions = run.run(num_threads)
        self._source.check_unchanged()
        if self._manifest(partitions, manifest.created_at).digest != manifest.digest:
            raise refusal
        # An earlier run may have been killed between publishing and tidying up.
        with WorkFolder(self._destination) as work:
            work.discard()
        return manifest

    def _manifest(self, partitions: tuple[PartitionRecord, ...], created_at: str) -> Manifest:
        content = Content(files=self._files, partitions=partitions, dtypes=self._layout.dtypes)
        return Manifest.of(content, source=self._origin, created_at=created_at)

    def _plan(self) -> str:
        """Digest of all that decides the bytes, as far as it can be known without reading them."""
        known = repr((self._files, len(self._layout.partitions), self._source.fingerprint))
        return hashlib.sha256(known.encode("utf-8")).hexdigest()
