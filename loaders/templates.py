"""Models without weights, kept from one load of their kind to the next: that one fills in a copy, and builds nothing.

To build OPT with 24 layers takes transformers 0.1 to 0.3 s, and the interpreter that the load's readers need as well.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Self

import torch
from transformers import PreTrainedModel

from loaders.copying import copy_model
from loaders.directory import CONFIG, GENERATION_CONFIG, CheckpointDirectory
from loaders.model_files import ModelFiles
from loaders.reading.plan import StoredTensor
from loaders.source import Source

#: One of a model with 32 layers takes a megabyte.
_MAX_TEMPLATES = 32


@dataclass(frozen=True, slots=True)
class Template:
    """A model without weights, and where each stored tensor belongs in it. Never run, and never changed."""

    _files: ModelFiles
    _model: PreTrainedModel
    #: The model's parameters and persistent buffers, and which stored tensor each of them is.
    _parts: Sequence[tuple[torch.Tensor, str]]

    @classmethod
    def of(cls, model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], files: ModelFiles) -> Self | None:
        """Take the weights out of a copy of a model that was built over `tensors` and has not run yet.

        None for a model that stores something else than these: its class computes weights from them.
        """
        names = {_place(tensor): name for name, tensor in reversed(list(tensors.items()))}
        stored = list(model.state_dict(keep_vars=True).values())
        if any(_place(part) not in names for part in stored):
            return None
        empty = {id(part): _like(part, torch.empty_like(part, device="meta")) for part in stored}
        parts = [(empty[id(part)], names[_place(part)]) for part in stored]
        return cls(replace(files, config=deepcopy(files.config)), copy_model(model, empty), parts)

    def files(self) -> ModelFiles:
        """What the execution files say, for the caller to keep."""
        return replace(self._files, config=deepcopy(self._files.config))

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> PreTrainedModel:
        """Make a model over `tensors`, whose bytes need not be there; its other buffers are on the CPU."""
        return copy_model(self._model, {id(part): _like(part, tensors[name]) for part, name in self._parts})


class Templates:
    """The templates of a process; its threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: OrderedDict[bytes, Template] = OrderedDict()

    def find(self, key: bytes | None) -> Template | None:
        """Find the template of a key, if there is one."""
        with self._lock:
            if key is None or key not in self._by_key:
                return None
            self._by_key.move_to_end(key)
            return self._by_key[key]

    def keep(self, key: bytes, template: Template | None) -> None:
        """Keep a template, if there is one; which was not used for longest goes when there are too many."""
        if template is None:
            return
        with self._lock:
            self._by_key[key] = template
            self._by_key.move_to_end(key)
            if len(self._by_key) > _MAX_TEMPLATES:
                self._by_key.popitem(last=False)

    @property
    def has_room(self) -> bool:
        """Whether another one would drive none out."""
        return len(self._by_key) < _MAX_TEMPLATES


def template_key(source: Source) -> bytes | None:
    """Name what a template depends on: equal for checkpoints whose weights alone differ. None where there is no model.

    Raises LoaderError for files that cannot be read.
    """
    if source.directory is None or not source.directory.has_config:
        return None
    key = hashlib.sha256()
    for text in (*_texts(source.directory), *_shapes(source.plan.tensors)):
        key.update(f"{len(text)}:{text}".encode())
    return key.digest()


def _texts(directory: CheckpointDirectory) -> Iterable[str]:
    yield directory.require_text(CONFIG)
    yield directory.read_text(GENERATION_CONFIG) or ""


def _shapes(tensors: Mapping[str, StoredTensor]) -> Iterable[str]:
    """Names, types and shapes; of tied tensors the first name."""
    first: dict[StoredTensor, str] = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: item[0]):
        yield f"{name} {tensor.dtype} {tensor.shape} {first.setdefault(tensor, name)}"


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for tensors that are the same memory, and for those without memory that would be."""
    storage = tensor.untyped_storage()._cdata  # noqa: SLF001 - `data_ptr` is 0 for all that have no memory
    return storage, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


def _like(part: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Make a tensor a parameter, if the part that it is to be is one."""
    return torch.nn.Parameter(tensor, requires_grad=False) if isinstance(part, torch.nn.Parameter) else tensor
