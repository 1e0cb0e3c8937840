"""How records are written into Redis: JSON for records, packed little-endian uint32 for token ids."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.errors import error_code
from sllm_tasks.jobs import (
    EqualityClass,
    Exactness,
    FinishReason,
    JobError,
    JobSpec,
    JobStatus,
    Outcome,
    SamplingParams,
    TokenRecord,
    Usage,
)


def pack_ids(ids: Iterable[int]) -> bytes:
    """Token ids as little-endian uint32."""
    return array("I", ids).tobytes()


def unpack_ids(data: bytes) -> tuple[int, ...]:
    """Reverse `pack_ids`."""
    ids = array("I")
    ids.frombytes(data)
    return tuple(ids)


def encode_spec(spec: JobSpec) -> str:
    """Everything but the prompt's ids, which travel packed beside it."""
    record = asdict(spec)
    del record["prompt_ids"]
    return json.dumps(record, separators=(",", ":"))


def decode_spec(data: bytes, prompt_ids: bytes) -> JobSpec:
    """Reverse `encode_spec`."""
    record = json.loads(data)
    record["shape"] = ReplicaShape(**record["shape"])
    record["params"] = decode_params(record["params"])
    record["exactness"] = Exactness(record["exactness"])
    return JobSpec(prompt_ids=unpack_ids(prompt_ids), **record)


def decode_params(record: dict[str, Any]) -> SamplingParams:
    """Sampling parameters from the JSON object that `asdict` made of them."""
    return SamplingParams(
        **{**record, "stop": tuple(record["stop"]), "stop_token_ids": tuple(record["stop_token_ids"])}
    )


def equality_class(exactness: str, fingerprint: str, downgrade: str) -> EqualityClass | None:
    """The promise of a replica, or what the tokens of a job are worth, from the fields of its record."""
    if not exactness:
        return None
    return EqualityClass(exactness=Exactness(exactness), fingerprint=fingerprint, downgrade=downgrade)


def encode_token(token: TokenRecord) -> str:
    """One token event; log probabilities only when there are some."""
    record: dict[str, Any] = {"index": token.index, "id": token.token_id, "text": token.text}
    if token.logprob is not None:
        record["logprob"] = token.logprob
        record["top"] = token.top
    return json.dumps(record, separators=(",", ":"))


def decode_token(data: bytes | str) -> TokenRecord:
    """Reverse `encode_token`."""
    record = json.loads(data)
    return TokenRecord(
        index=record["index"],
        token_id=record["id"],
        text=record["text"],
        logprob=record.get("logprob"),
        top=tuple((token_id, logprob) for token_id, logprob in record.get("top", ())),
    )


def encode_outcome(outcome: Outcome) -> str:
    """An outcome as JSON."""
    return json.dumps(asdict(outcome), separators=(",", ":"))


def decode_outcome(data: bytes | str) -> Outcome:
    """Reverse `encode_outcome`."""
    record = json.loads(data)
    error, usage = record["error"], record["usage"]
    return Outcome(
        status=JobStatus(record["status"]),
        text=record["text"],
        finish_reason=FinishReason(record["finish_reason"]) if record["finish_reason"] else None,
        usage=Usage(**usage) if usage else None,
        error=JobError(**{**error, "code": error_code(error["code"])}) if error else None,
        logprobs=tuple(
            TokenRecord(**{**token, "top": tuple(map(tuple, token["top"]))}) for token in record["logprobs"]
        ),
    )
