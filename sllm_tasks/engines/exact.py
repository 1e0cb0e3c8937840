"""The engine of the level `exact`: the step loop over canonical rows.

A model for which the trial at its load fails is decoded as by the default engine, and its class says so.
"""

from __future__ import annotations

import logging
from typing import Any

from transformers import PreTrainedModel

from sllm_tasks.engines.base import EngineLimits
from sllm_tasks.engines.batch_model import BatchModel
from sllm_tasks.engines.equality import describe
from sllm_tasks.engines.forward import ForwardModel
from sllm_tasks.engines.loading import is_out_of_memory
from sllm_tasks.engines.rows.batch import RowBatch, num_slots
from sllm_tasks.engines.rows.model import RowModel, RowsUnsupportedError
from sllm_tasks.engines.rows.probe import probe, probe_ids, reference_logits
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import EqualityClass, Exactness

_log = logging.getLogger(__name__)


class ExactEngine(StepLoopEngine):
    """The step loop, but what a job gets is the same bit for bit in any batch and after any resumption."""

    def _make(self, model: PreTrainedModel, limits: EngineLimits, eos_token_ids: frozenset[int]) -> BatchModel[Any]:
        try:
            return _exact(model, limits, eos_token_ids)
        except RowsUnsupportedError as error:
            _log.warning("a %s is not decoded exactly: %s", type(model).__name__, error)
            return ForwardModel(model, limits, eos_token_ids, downgrade=str(error))


def _exact(model: PreTrainedModel, limits: EngineLimits, eos_token_ids: frozenset[int]) -> RowBatch:
    token_ids = probe_ids(model, limits.context)
    reference = reference_logits(model, token_ids)
    rows = RowModel(model, num_slots=num_slots(limits), context=limits.context)
    try:
        digest = probe(rows, token_ids, reference)
    except (RowsUnsupportedError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        rows.release()
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        # What is wrong with the inputs that a model was given shows in whatever way its code happens to fail.
        raise RowsUnsupportedError(str(error)) from error
    equality_class = EqualityClass(exactness=Exactness.EXACT, fingerprint=f"{describe(model)}, trial {digest}")
    return RowBatch(rows, limits, eos_token_ids, equality_class)
