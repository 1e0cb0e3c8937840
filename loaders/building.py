"""What a load makes besides tensors while their bytes are on their way: the model's files, and the model over them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from transformers import PreTrainedModel

from loaders.devices.loaded import SideBySide
from loaders.emptying import empty_model
from loaders.model_files import ModelFiles, read_model_files
from loaders.reading.pipeline import Cancel
from loaders.restore import restore, settle
from loaders.source import Source
from loaders.templates import Template, Templates


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a checkpoint holds besides tensors."""

    #: None for tensors without a model.
    model_files: ModelFiles | None
    #: None where it was not asked for.
    model: PreTrainedModel | None


class Building:
    """A context manager around the load, and a thread beside it, so that the model costs no time of its own.

    The thread begins when the tensors have their memory (`use`), so that nothing holds up the first reads, and is done
    when that has its bytes (`finish`).
    """

    def __init__(self, source: Source, templates: Templates | None = None, *, with_model: bool) -> None:
        """`templates` has models that are built but for their weights, and gets this one."""
        self.source = source
        self._templates = templates or Templates()
        self._with_model = with_model
        self._tensors: Mapping[str, torch.Tensor] = {}
        self._side_by_side: SideBySide = lambda _: None
        self._model_files: ModelFiles | None = None
        self._model: PreTrainedModel | None = None
        # Found in the files; what goes wrong with the model may be due to bytes that were not there yet.
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._build, name="build-model", daemon=True)

    def use(self, tensors: Mapping[str, torch.Tensor], side_by_side: SideBySide) -> None:
        """Build over these; their bytes need not be there."""
        self._tensors = tensors
        self._side_by_side = side_by_side
        self._thread.start()

    def finish(self) -> Built:
        """Wait for the model, now that the bytes are there; raises LoaderError if they, or the files, make none."""
        self._thread.join()
        self.raise_error()
        return Built(model_files=self._model_files, model=self._finished_model())

    def cancel(self, wanted: Cancel | None) -> Cancel:
        """Make what is wrong with the files stop the load, besides a wish to stop; `raise_error` tells which it was."""
        return _CancelOnError(wanted, self)

    def raise_error(self) -> None:
        """Raise the LoaderError that says what is wrong with the files, if anything is."""
        if self._error is not None:
            raise self._error

    @property
    def has_failed(self) -> bool:
        """Whether the files make no model."""
        return self._error is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    def _build(self) -> None:
        try:
            template = self._templates.find(self.source) if self._with_model else None
            self._model_files = read_model_files(self.source) if template is None else template.files()
        except Exception as error:  # noqa: BLE001 - the edge of a thread; `finish` raises it
            self._error = error
            return
        if not self._with_model or self._model_files is None:
            return
        try:
            self._model = self._built(self._model_files) if template is None else self._filled(template)
        except Exception:  # noqa: BLE001 - built once more by `finish`, where it is raised
            self._model = None

    def _filled(self, template: Template) -> PreTrainedModel | None:
        """None where the class has to join tensors: `finish` lets it, when their bytes are there."""
        model = template.fill(self._tensors, self._side_by_side)
        return None if model is None else settle(model, self._tensors)

    def _built(self, files: ModelFiles) -> PreTrainedModel:
        return restore(files.config, self._tensors, files.dtype)

    def _finished_model(self) -> PreTrainedModel | None:
        if not self._with_model or self._model_files is None:
            return None
        if self._model is not None and _shows(self._model, self._tensors):
            return self._model
        if self._model is not None:
            empty_model(self._model)
        return self._built(self._model_files)


@dataclass(frozen=True, slots=True)
class _CancelOnError:
    wanted: Cancel | None
    building: Building

    def is_set(self) -> bool:
        return self.building.has_failed or (self.wanted is not None and self.wanted.is_set())


def _shows(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether all that is stored is the tensors themselves: some classes compute theirs from what was not there yet."""
    stored = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    return all(part.untyped_storage().data_ptr() in stored for part in model.state_dict().values())
