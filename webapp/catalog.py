"""The models that can be asked for, remembered for a moment so that a job does not cost a query for each of them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Final

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.errors import NotFoundError
from sllm_tasks.jobs import Exactness
from sllm_tasks.ledger import inventory
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.states import ModelState
from sllm_tasks.ledger.tables import ModelRow
from sllm_tasks.limits import MAX_TEMPERATURE, MAX_TOP_K
from webapp.errors import ModelDeployingError, ModelNotServedError, ModelUnknownError

#: A change of a model is noticed after at most this time.
_MEMORY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """How a model draws tokens where its user does not say."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that takes jobs."""

    name: str
    checkpoint: str
    shape: ReplicaShape
    exactness: Exactness
    defaults: SamplingDefaults

    @property
    def context(self) -> int:
        """Tokens of prompt and output of one job."""
        return self.shape.context


class Catalog:
    """Safe to use from many threads: an entry is replaced whole, and two that read it twice do no harm."""

    def __init__(self, ledger: Database) -> None:
        self._ledger = ledger
        self._known: dict[str, tuple[float, ServedModel]] = {}
        # A checkpoint's settings never change, so these are kept.
        self._defaults: dict[str, SamplingDefaults] = {}

    def served(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            ModelUnknownError: There is none.
            ModelDeployingError: It is not ready yet.
            ModelNotServedError: It has failed to deploy or is being deleted.

        """
        known = self._known.get(name)
        if known is not None and time.monotonic() - known[0] < _MEMORY_S:
            return known[1]
        model = self._read(name)
        self._known[name] = (time.monotonic(), model)
        return model

    def _read(self, name: str) -> ServedModel:
        with self._ledger.reading() as session:
            try:
                row = inventory.get_model(session, name)
            except NotFoundError as error:
                self._known.pop(name, None)
                raise ModelUnknownError(
                    f"there is no model {name}; GET /api/v1/models lists those there are"
                ) from error
            checkpoint = _require_ready(row)
            if checkpoint not in self._defaults:
                stored = inventory.get_checkpoint(session, checkpoint)
                self._defaults[checkpoint] = sampling_defaults(stored.generation_config)
        return ServedModel(
            name=row.name,
            checkpoint=checkpoint,
            shape=inventory.model_info(row).shape,
            exactness=row.exactness,
            defaults=self._defaults[checkpoint],
        )


def sampling_defaults(generation_config: str | None) -> SamplingDefaults:
    """Read a generation_config.json; without `do_sample` a model decodes greedily.

    What it says beyond what users may say (a `top_k` of -1 stands for all tokens in many of them) counts as not said.
    """
    config = json.loads(generation_config) if generation_config else {}
    if not config.get("do_sample"):
        return SamplingDefaults()
    temperature, top_p = _number(config.get("temperature")), _number(config.get("top_p"))
    top_k = _number(config.get("top_k"))
    return SamplingDefaults(
        temperature=float(temperature) if temperature is not None and 0 <= temperature <= MAX_TEMPERATURE else 1.0,
        top_p=float(top_p) if top_p is not None and 0 < top_p <= 1 else 1.0,
        top_k=int(top_k) if top_k is not None and 0 <= top_k <= MAX_TOP_K else 0,
    )


def _number(value: object) -> float | None:
    """The number that a value is; NaN is in no range, so it need not be told apart."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _require_ready(row: ModelRow) -> str:
    if row.state is ModelState.DEPLOYING:
        raise ModelDeployingError(f"the model {row.name} is being deployed")
    if row.state is not ModelState.READY or row.checkpoint is None:
        raise ModelNotServedError(f"the model {row.name} takes no jobs: {row.error or row.state}")
    return row.checkpoint
