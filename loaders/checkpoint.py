"""Load a checkpoint: `with load(path, "cuda:0") as checkpoint: model = checkpoint.model()`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import torch
from transformers import PreTrainedModel

from loaders.building import Building, Built
from loaders.devices.cpu import load_on_cpu
from loaders.devices.cuda import load_on_gpus
from loaders.devices.loaded import Loaded, LoadedFrom, OnTensors, SideBySide
from loaders.devices.parts import split_plan
from loaders.errors import CheckpointMissingError, LoadCanceledError, LoaderError
from loaders.memory.pool import Pool
from loaders.memory.ranking import LoadClass
from loaders.memory.records import ContentKey
from loaders.model_files import ModelFiles
from loaders.reading.pipeline import Cancel, LoadControl, Progress, ReadOptions, Turn, alone
from loaders.reading.plan import LoadPlan
from loaders.restore import restore
from loaders.source import Source, open_source
from loaders.templates import Templates


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """How a load went."""

    loaded_from: LoadedFrom
    #: Size of the data files.
    num_bytes: int
    #: Bytes that this load read itself; less than all when others read, or had read, the rest.
    read_bytes: int
    seconds: float


class LoadedCheckpoint:
    """The tensors of a checkpoint on a device, or on several.

    `close` drops them; a model made from them, and any tensor taken out, keeps the memory that it needs.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        report: LoadReport,
        built: Built,
        content_key: str,
    ) -> None:
        self._tensors = tensors
        self._model_files = built.model_files
        # Built while the bytes came; given away once, because its user may change it.
        self._model = built.model
        self.report = report
        #: Equal for equal content; who has found something out about it need not do so again.
        self.content_key = content_key

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Every stored tensor by name; raises LoaderError after `close`."""
        if not self._tensors:
            raise LoaderError("the checkpoint is closed")
        return MappingProxyType(dict(self._tensors))

    @property
    def model_files(self) -> ModelFiles:
        """What belongs to the model; raises CheckpointMissingError for tensors without one."""
        if self._model_files is None:
            raise CheckpointMissingError("there is no config.json: these are tensors without a model")
        return self._model_files

    @property
    def num_bytes(self) -> int:
        """Size of all tensors together, tied ones counted once."""
        return sum(tensor.nbytes for tensor in set(self._tensors.values()))

    def model(self) -> PreTrainedModel:
        """Build a model over the tensors: on their devices, in the stored type, in eval mode, without gradients."""
        if self._model is not None:
            model, self._model = self._model, None
            return model
        return restore(self.model_files.config, self.tensors, self.model_files.dtype)

    def close(self) -> None:
        """Let go of the tensors; idempotent."""
        self._tensors = {}
        self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LoadedCheckpoint {len(self._tensors)} tensors {self.num_bytes} bytes>"


def load(  # noqa: PLR0913 - all but the path have defaults that are right for almost everybody
    path: Path,
    device: str | Sequence[str] = "cpu",
    *,
    pool: Pool | None = None,
    with_model: bool = False,
    templates: Templates | None = None,
    options: ReadOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: Cancel | None = None,
) -> LoadedCheckpoint:
    """Read a checkpoint to `device`: a directory of our own format or of .safetensors files, or one such file.

    Several devices get whole layers, in their order and about as many bytes each, and are filled at once; a model over
    them wants its inputs on the first. The same device twice counts once.

    `pool` is the node's DRAM tier: what it has is not read again, and what is read stays there. Without one, or when it
    is too small, the memory is this load's own. `with_model` builds the model while the bytes come, for `model()` to
    return; `templates` has models that are built but for their weights, and gets this one. `on_progress` is called some
    times a second from this thread; `cancel` ends the load early.

    Raises:
        LoaderError: The checkpoint is unsound, a disk failed, or the load was canceled; nothing is left behind.
        torch.OutOfMemoryError: The device has no room.

    """
    with open_source(Path(path)) as source:
        control = LoadControl(on_progress=on_progress, cancel=cancel, join_queue=_queue(pool, source.plan))
        building = Building(source, templates, with_model=with_model)
        return load_source(building, device, pool=pool, options=options or ReadOptions(), control=control)


def load_source(
    building: Building, device: str | Sequence[str], *, pool: Pool | None, options: ReadOptions, control: LoadControl
) -> LoadedCheckpoint:
    """Read an open checkpoint, wherever its files are; raises what `load` raises."""
    started_s = time.monotonic()
    source = building.source
    tensors: dict[str, torch.Tensor] = {}
    with building:

        def on_tensors(made: dict[str, torch.Tensor], side_by_side: SideBySide) -> None:
            tensors.update(made)
            building.use(tensors, side_by_side)

        try:
            loaded = _load_tensors(
                source, device, pool, options, replace(control, cancel=building.cancel(control.cancel)), on_tensors
            )
        except LoadCanceledError:
            building.raise_error()
            raise
        built = building.finish()
    report = LoadReport(
        loaded_from=loaded.loaded_from,
        num_bytes=source.plan.num_bytes,
        read_bytes=loaded.read_bytes,
        seconds=time.monotonic() - started_s,
    )
    return LoadedCheckpoint(tensors, report, built, source.plan.key)


def _load_tensors(
    source: Source,
    device: str | Sequence[str],
    pool: Pool | None,
    options: ReadOptions,
    control: LoadControl,
    on_tensors: OnTensors,
) -> Loaded:
    names = (device,) if isinstance(device, str) else device
    devices = list(dict.fromkeys(torch.device(name) for name in names))
    if len(devices) == 1 and devices[0].type == "cpu":
        return load_on_cpu(source.plan, pool, options, control, on_tensors)
    parts = split_plan(source.plan, devices, by_partition=source.is_converted)
    return load_on_gpus(source.plan, parts, pool, options, control, on_tensors)


def _queue(pool: Pool | None, plan: LoadPlan) -> Callable[[], AbstractContextManager[Turn]]:
    """How a load takes its place among those of the node: a disk serves them best one after the other."""
    if pool is None:
        return alone
    key = ContentKey(plan.key)
    return partial(pool.load_queue.join, f"load-{plan.key[:12]}", key, LoadClass.DEMAND, plan.num_bytes)
