"""Models without weights, kept from one load of their kind to the next: that one fills in a copy, and builds nothing.

To build OPT with 24 layers takes transformers 0.1 to 0.3 s, and the interpreter that the load's readers need as well.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Self

import torch
from transformers import PreTrainedModel

from loaders.copying import copy_model
from loaders.devices.loaded import SideBySide
from loaders.directory import CONFIG, GENERATION_CONFIG, CheckpointDirectory
from loaders.joining import Joined, Joining
from loaders.model_files import ModelFiles, read_model_files
from loaders.reading.plan import StoredTensor
from loaders.restore import build
from loaders.source import Source
from loaders.tensors import empty_tensors

logger = logging.getLogger(__name__)

#: One of a model with 32 layers takes a megabyte.
_MAX_TEMPLATES = 32


@dataclass(frozen=True, slots=True)
class Template:
    """A model without weights, and which stored tensors belong where in it. Never run, and never changed."""

    _files: ModelFiles
    _model: PreTrainedModel
    #: The model's parameters and persistent buffers, and what each of them consists of.
    _parts: Sequence[tuple[torch.Tensor, Joined]]

    @classmethod
    def of(cls, files: ModelFiles, stored: Mapping[str, StoredTensor]) -> Self | None:
        """Build a model over tensors without memory.

        None for one that computes some of its weights from what is stored. Raises what `build` raises.
        """
        tensors = empty_tensors(stored)
        with Joining(tensors) as joining:
            model = build(files.config, tensors, files.dtype)
        parts = [(part, joining.find(part)) for part in model.state_dict(keep_vars=True).values()]
        known = [(part, joined) for part, joined in parts if joined is not None]
        return cls(files, model, known) if len(known) == len(parts) else None

    @property
    def joined(self) -> list[tuple[str, ...]]:
        """Stored tensors that the model joins: side by side in this order, they are what it wants."""
        return [part.names for _, part in self._parts if len(part.pieces) > 1]

    def files(self) -> ModelFiles:
        """What the execution files say, for the caller to keep."""
        return replace(self._files, config=deepcopy(self._files.config))

    def without_memory(self) -> PreTrainedModel:
        """Copy the model to torch's device without memory; it can be run there for the shapes of what comes out."""
        model = copy_model(self._model, {})
        model.to("meta")  # type: ignore[arg-type] # its stub knows no device alone
        return model

    def fill(self, tensors: Mapping[str, torch.Tensor], side_by_side: SideBySide) -> PreTrainedModel | None:
        """Make a model over `tensors`, whose bytes need not be there; its other buffers are on the CPU.

        None when tensors that the model joins do not lie side by side.
        """
        parts: dict[int, torch.Tensor] = {}
        for part, joined in self._parts:
            tensor = _tensor(part, joined, tensors, side_by_side)
            if tensor is None:
                return None
            is_parameter = isinstance(part, torch.nn.Parameter)
            parts[id(part)] = torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        return copy_model(self._model, parts)


def _tensor(
    part: torch.Tensor, joined: Joined, tensors: Mapping[str, torch.Tensor], side_by_side: SideBySide
) -> torch.Tensor | None:
    if len(joined.pieces) == 1 and (tensor := tensors[joined.names[0]]).shape == joined.shape:
        return tensor
    found = side_by_side(joined.names)
    if found is None or found.data_ptr() % part.dtype.itemsize:
        return None
    return found.view(part.dtype).view(joined.shape)


class Templates:
    """The templates of a process; its threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Two loads of a kind at once wait for one template.
        self._making = threading.Lock()
        # None for models that are built anew each time.
        self._by_key: OrderedDict[bytes, Template | None] = OrderedDict()

    def find(self, source: Source) -> Template | None:
        """Find or make the template of a checkpoint; None where there is none, or what is there makes no model."""
        key = template_key(source)
        if key is None:
            return None
        if key in self._by_key:
            return self._use(key)
        with self._making:
            if key not in self._by_key:
                self._keep(key, make_template(source))
            return self._use(key)

    def _use(self, key: bytes) -> Template | None:
        with self._lock:
            if key in self._by_key:
                self._by_key.move_to_end(key)
            return self._by_key.get(key)

    def _keep(self, key: bytes, template: Template | None) -> None:
        with self._lock:
            self._by_key[key] = template
            if len(self._by_key) > _MAX_TEMPLATES:
                self._by_key.popitem(last=False)

    def has(self, source: Source) -> bool:
        """Whether nothing is left to be made for a checkpoint: its template is here, or it is known to have none."""
        key = template_key(source)
        return key is None or key in self._by_key

    @property
    def has_room(self) -> bool:
        """Whether another one would drive none out."""
        return len(self._by_key) < _MAX_TEMPLATES


def make_template(source: Source) -> Template | None:
    """Make the template of a checkpoint; None where there is none, or what is there makes no model.

    Raises LoaderError for files that cannot be read.
    """
    files = read_model_files(source)
    if files is None:
        return None
    try:
        return Template.of(files, source.plan.tensors)
    except Exception:  # the load that builds it over its tensors raises it, with its name
        logger.debug("no template of a %s", files.config.model_type, exc_info=True)
        return None


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
