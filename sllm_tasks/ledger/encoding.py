"""Records of the core as ledger columns and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.jobs import JobSpec, SamplingParams, TokenRecord
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.tables import JobRow

_TUPLES = ("stop", "stop_token_ids")


def from_ms(ms: int) -> datetime:
    """Convert cluster time, milliseconds since 1970, to an instant."""
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def to_ms(at: datetime) -> int:
    """Convert an instant to cluster time; fractions of a millisecond are cut off."""
    return int(at.timestamp()) * 1000 + at.microsecond // 1000


def encode_params(params: SamplingParams) -> JsonObject:
    """Write sampling parameters as a JSON object, the very one that is read later: its arrays are lists."""
    values = ((field.name, getattr(params, field.name)) for field in dataclasses.fields(params))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


def decode_params(stored: JsonObject) -> SamplingParams:
    """Read what `encode_params` wrote."""
    fields = {name: tuple(cast("list[object]", stored[name])) for name in _TUPLES}
    return SamplingParams(**{**stored, **fields})  # type: ignore[arg-type] # JSON; written by encode_params


def encode_tokens(tokens: Sequence[TokenRecord]) -> list[JsonObject] | None:
    """Write token records as a JSON list, None for none.

    Probabilities that are no numbers are left out: JSON has none of those, and PostgreSQL would refuse the whole end of
    a job for one of them.
    """
    return [_encode_token(token) for token in tokens] or None


def _encode_token(token: TokenRecord) -> JsonObject:
    finite = token.logprob is not None and math.isfinite(token.logprob)
    top = [[token_id, logprob] for token_id, logprob in token.top if math.isfinite(logprob)]
    return {**dataclasses.asdict(token), "logprob": token.logprob if finite else None, "top": top}


def decode_tokens(stored: Sequence[JsonObject] | None) -> tuple[TokenRecord, ...]:
    """Read what `encode_tokens` wrote."""
    return tuple(_decode_token(token) for token in stored or ())


def _decode_token(stored: JsonObject) -> TokenRecord:
    top = tuple((token_id, logprob) for token_id, logprob in cast("list[tuple[int, float]]", stored["top"]))
    return TokenRecord(**{**stored, "top": top})  # type: ignore[arg-type] # JSON; written by encode_tokens


def job_spec(row: JobRow) -> JobSpec:
    """Rebuild what a worker needs, for a job whose live record was lost."""
    return JobSpec(
        job_id=row.id,
        tenant=row.tenant,
        model=row.model,
        checkpoint=row.checkpoint,
        shape=ReplicaShape(**row.shape),  # type: ignore[arg-type] # JSON; written by `insert_job`
        prompt_ids=row.prompt_ids,
        params=decode_params(row.params),
        priority=row.priority,
        job_class=row.job_class,
        created_ms=to_ms(row.created_at),
        deadline_ms=None if row.deadline_at is None else to_ms(row.deadline_at),
        exactness=row.exactness,
        traceparent=row.traceparent,
        request_id=row.request_id,
    )
