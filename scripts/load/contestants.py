"""The loaders that bench_load compares; each is one function from files to tensors, with its imports before the clock.

A contestant is made (imports, what the product would have at hand: a pool, kernels) before the clock starts, and called
in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from loaders.templates import Templates

Tensors = Mapping[str, torch.Tensor]
Load = Callable[[], Tensors]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """One checkpoint in every form that a contestant wants."""

    #: A directory in the Hugging Face layout.
    directory: Path
    converted: Path
    packed: Path
    pickled: Path
    tensorized: Path
    #: Of the node's pool; None: no pool before the clock.
    pool: Path
    pool_bytes: int
    device: str

    @property
    def safetensors(self) -> Path:
        """The one file with the tensors."""
        return self.directory / "model.safetensors"


def _ours(
    path: Path, files: Files, *, resident_pool: bool, with_model: bool = False, has_template: bool = False
) -> Load:
    from loaders import checkpoint  # noqa: PLC0415 - contestants import only what is theirs
    from loaders.devices.readiness import make_ready  # noqa: PLC0415
    from loaders.memory.pool import Pool  # noqa: PLC0415

    pool = Pool.open(files.pool, files.pool_bytes) if resident_pool else None
    if pool is not None:
        pool.prepare()
    make_ready(files.device, pool)
    rehearsed = _import_model(files)
    templates = rehearsed if has_template else None

    def load() -> Tensors:
        loaded = checkpoint.load(path, files.device, pool=pool, with_model=with_model, templates=templates)
        if with_model:
            return dict(loaded.model().state_dict())
        return loaded.tensors

    return load


def _import_model(files: Files) -> Templates:
    """Import the model's code and make its template, as a worker does; tensors without a model have none."""
    from loaders.rehearsal import Rehearsal  # noqa: PLC0415
    from loaders.templates import Templates  # noqa: PLC0415

    templates = Templates()
    Rehearsal(templates).look([files.directory])
    return templates


def _torch_load(files: Files, *, mapped: bool) -> Load:
    def load() -> Tensors:
        tensors: Tensors = torch.load(files.pickled, map_location=files.device, mmap=mapped, weights_only=True)
        return tensors

    return load


def _safetensors(files: Files) -> Load:
    from safetensors.torch import load_file  # noqa: PLC0415

    return lambda: load_file(files.safetensors, device=files.device)


def _transformers(files: Files) -> Load:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    _import_model(files)
    return lambda: AutoModelForCausalLM.from_pretrained(
        files.directory, dtype=torch.bfloat16, device_map=None if files.device == "cpu" else files.device
    ).state_dict()


def _runai(files: Files) -> Load:
    from runai_model_streamer import SafetensorsStreamer  # noqa: PLC0415

    def load() -> Tensors:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(str(files.safetensors))
            return {name: tensor.to(files.device) for name, tensor in streamer.get_tensors()}

    return load


def _fastsafetensors(files: Files) -> Load:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup  # noqa: PLC0415

    def load() -> Tensors:
        loader = SafeTensorsFileLoader(SingleGroup(), files.device, nogds=files.device == "cpu")
        loader.add_filenames({0: [str(files.safetensors)]})
        buffer = loader.copy_files_to_device()
        return {name: buffer.get_tensor(name) for name in list(buffer.key_to_rank_lidx)}

    return load


def _tensorizer(files: Files) -> Load:
    from tensorizer import TensorDeserializer  # noqa: PLC0415

    def load() -> Tensors:
        deserializer: Any = TensorDeserializer(files.tensorized, device=files.device, num_readers=4)
        return dict(deserializer.items())

    return load


CONTESTANTS: Mapping[str, Callable[[Files], Load]] = {
    "ours": lambda files: _ours(files.converted, files, resident_pool=True),
    "ours, pool in the clock": lambda files: _ours(files.converted, files, resident_pool=False),
    "ours, direct safetensors": lambda files: _ours(files.directory, files, resident_pool=True),
    "ours, packed": lambda files: _ours(files.packed, files, resident_pool=True),
    "ours, whole model": lambda files: _ours(
        files.converted, files, resident_pool=True, with_model=True, has_template=True
    ),
    "ours, whole model built in the clock": lambda files: _ours(
        files.converted, files, resident_pool=True, with_model=True
    ),
    "torch.load": lambda files: _torch_load(files, mapped=False),
    "torch.load, mmap": lambda files: _torch_load(files, mapped=True),
    "safetensors": _safetensors,
    "runai": _runai,
    "transformers": _transformers,
    "fastsafetensors": _fastsafetensors,
    "tensorizer": _tensorizer,
}

#: Files that each contestant reads.
READS: Mapping[str, Callable[[Files], list[Path]]] = {
    "ours": lambda files: sorted(files.converted.glob("*.bin")),
    "ours, pool in the clock": lambda files: sorted(files.converted.glob("*.bin")),
    "ours, direct safetensors": lambda files: [files.safetensors],
    "ours, packed": lambda files: sorted(files.packed.glob("*.bin")),
    "ours, whole model": lambda files: sorted(files.converted.glob("*.bin")),
    "ours, whole model built in the clock": lambda files: sorted(files.converted.glob("*.bin")),
    "torch.load": lambda files: [files.pickled],
    "torch.load, mmap": lambda files: [files.pickled],
    "safetensors": lambda files: [files.safetensors],
    "runai": lambda files: [files.safetensors],
    "transformers": lambda files: [files.safetensors],
    "fastsafetensors": lambda files: [files.safetensors],
    "tensorizer": lambda files: [files.tensorized],
}

#: What those who have the node's pool find there when it is warm.
POOLED: Mapping[str, Callable[[Files], Path]] = {
    "ours": lambda files: files.converted,
    "ours, direct safetensors": lambda files: files.directory,
    "ours, packed": lambda files: files.packed,
    "ours, whole model": lambda files: files.converted,
    "ours, whole model built in the clock": lambda files: files.converted,
}
