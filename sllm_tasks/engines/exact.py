"""The engine of the level `exact`: the step loop over canonical rows.

A model for which the trial at its first load fails is decoded as by the default engine, and its class says so.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sllm_tasks.engines.base import EngineLimits
from sllm_tasks.engines.batch_model import BatchModel
from sllm_tasks.engines.device_errors import is_out_of_memory
from sllm_tasks.engines.equality import describe
from sllm_tasks.engines.forward import ForwardModel
from sllm_tasks.engines.kinds import kind_of
from sllm_tasks.engines.layer_shapes import LayerShape
from sllm_tasks.engines.loading import MODEL_ERRORS, LoadedModel
from sllm_tasks.engines.memo import Memo
from sllm_tasks.engines.rows.arithmetic import Sizes
from sllm_tasks.engines.rows.batch import RowBatch, num_slots
from sllm_tasks.engines.rows.model import RowModel, RowsUnsupportedError
from sllm_tasks.engines.rows.probe import probe, probe_ids, reference_logits
from sllm_tasks.engines.rows.windows import check_windows
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import EqualityClass, Exactness

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Trial:
    """What came of a trial that succeeded."""

    fingerprint: str
    sizes: Sizes
    shapes: Sequence[LayerShape]


#: By what a trial depends on and what loads of a process can differ in. It runs the model eight times.
_trials = Memo[_Trial](256)


class ExactEngine(StepLoopEngine):
    """The step loop, but what a job gets is the same bit for bit in any batch and after any resumption."""

    def _make(self, loaded: LoadedModel, limits: EngineLimits) -> BatchModel[Any]:
        try:
            return _exact(loaded, limits)
        except RowsUnsupportedError as error:
            _log.warning("a %s is not decoded exactly: %s", type(loaded.model).__name__, error)
            return ForwardModel(loaded, limits, downgrade=str(error))


def _exact(loaded: LoadedModel, limits: EngineLimits) -> RowBatch:
    trial = _trials.find(_circumstances(loaded, limits), lambda: _try(loaded, limits))
    rows = _rows(loaded, limits, trial.sizes)
    rows.cache.allocate(trial.shapes)
    equality_class = EqualityClass(exactness=Exactness.EXACT, fingerprint=trial.fingerprint)
    return RowBatch(rows, limits, loaded.eos_token_ids, equality_class)


def _circumstances(loaded: LoadedModel, limits: EngineLimits) -> Hashable:
    """The weights, what is computed with them and where, and how large the blocks and slots are that they meet."""
    return loaded.content_key, kind_of(loaded.model), limits.max_jobs, limits.context, torch.get_num_threads()


def _try(loaded: LoadedModel, limits: EngineLimits) -> _Trial:
    """Take a model over, try it and give it back; raises RowsUnsupportedError."""
    token_ids = probe_ids(loaded.model, limits.context)
    reference = reference_logits(loaded.model, token_ids)
    rows = _rows(loaded, limits, {})
    try:
        digest = probe(rows, token_ids, reference)
        check_windows(loaded.model, rows.cache.windows, limits.context)
        return _Trial(f"{describe(loaded.model)}, trial {digest}", dict(rows.sizes), rows.cache.shapes)
    except MODEL_ERRORS as error:
        if is_out_of_memory(error):
            raise
        # What is wrong with the inputs that a model was given shows in whatever way its code happens to fail.
        raise RowsUnsupportedError(str(error)) from error
    finally:
        rows.release()


def _rows(loaded: LoadedModel, limits: EngineLimits, sizes: Sizes) -> RowModel:
    return RowModel(loaded.model, num_slots=num_slots(limits), context=limits.context, sizes=sizes)
