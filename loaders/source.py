"""A checkpoint on a disk, in either form: our own directory, or one with ordinary .safetensors files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from loaders.collecting import collection_put_off
from loaders.directory import CheckpointDirectory
from loaders.format.geometry import MODEL_DIRECTORY, TENSOR_INDEX
from loaders.format.safetensors_header import open_safetensors
from loaders.format.validate import open_checkpoint
from loaders.reading.plan import LoadPlan, plan_checkpoint, plan_safetensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An open checkpoint: its files stay what they were when it was opened."""

    plan: LoadPlan
    #: Where config.json and its like are; None for a single file of tensors.
    directory: CheckpointDirectory | None
    #: Whether it has digests for its chunks.
    is_converted: bool


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open and check everything but the tensors' bytes.

    `path` is a directory of either form, or one .safetensors file. Raises LoaderError, saying what is wrong.
    """
    with ExitStack() as resources:
        with collection_put_off:
            source = _open(path, resources)
        yield source


def _open(path: Path, resources: ExitStack) -> Source:
    if (path / TENSOR_INDEX).is_file():
        opened = resources.enter_context(open_checkpoint(path))
        model_files = path / MODEL_DIRECTORY
        return Source(
            plan=plan_checkpoint(opened),
            directory=CheckpointDirectory(model_files) if model_files.is_dir() else None,
            is_converted=True,
        )
    directory = None if path.is_file() else CheckpointDirectory(path)
    files = (path,) if directory is None else directory.shards()
    shards = [resources.enter_context(open_safetensors(file)) for file in files]
    return Source(plan=plan_safetensors(shards), directory=directory, is_converted=False)
