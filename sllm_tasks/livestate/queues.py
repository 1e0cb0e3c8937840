"""The waiting room: jobs without a place, what tenants have and had, and the gates that keep jobs off the fast path."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.client import Pipeline

from sllm_tasks.cluster import EVERY_MODEL, GpuId, Hold
from sllm_tasks.jobs import JobSpec
from sllm_tasks.livestate import codec
from sllm_tasks.livestate.connection import PREFIX, text, translated
from sllm_tasks.livestate.scripts import Scripts

_ALL_GATE, _MODEL_GATE, _TENANTS_GATE, _TENANT_GATE = "all", "model:", "tenants", "tenant:"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSpec:
    """A job that wants a place."""

    #: Without the prompt's ids.
    spec: JobSpec
    attempt: int
    #: Workers that died while they ran it.
    losses: int
    prompt_tokens: int
    #: Cluster time in ms at which it began to wait: when it was accepted, or lost its place.
    waits_since_ms: int
    #: What a router began to empty for it.
    hold: Hold | None


@dataclass(frozen=True, slots=True)
class Gates:
    """Whose jobs may not take a place by themselves; those of `paused` queues are not to start at all."""

    #: Models, or `EVERY_MODEL`.
    paused: frozenset[str] = frozenset()
    #: Tenants that may run only so many jobs at once.
    limited: frozenset[str] = frozenset()
    #: Whether every tenant is.
    limits_all: bool = False

    def names(self) -> list[str]:
        """The closed gates as the live state writes them."""
        models = [_ALL_GATE if name == EVERY_MODEL else _MODEL_GATE + name for name in self.paused]
        tenants = [_TENANT_GATE + tenant for tenant in self.limited]
        return sorted(models + tenants + [_TENANTS_GATE] * self.limits_all)

    @classmethod
    def parse(cls, names: Collection[str]) -> Gates:
        """Reverse `names`."""
        paused = {name.removeprefix(_MODEL_GATE) for name in names if name.startswith(_MODEL_GATE)}
        return cls(
            paused=frozenset(paused | ({EVERY_MODEL} if _ALL_GATE in names else set())),
            limited=frozenset(name.removeprefix(_TENANT_GATE) for name in names if name.startswith(_TENANT_GATE)),
            limits_all=_TENANTS_GATE in names,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRoom:
    """What a pass of the router begins with."""

    #: Those accepted first at the beginning.
    job_ids: tuple[str, ...]
    #: Jobs that have a place, by tenant.
    running: dict[str, int]
    #: Tokens that tenants were charged since the live state was made; only differences mean anything.
    served: dict[str, int]
    #: None: nobody has said yet which are closed, for example since the live state was lost.
    gates: Gates | None
    #: Of the gates; goes with a change of them.
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """How many jobs wait for a model."""

    num_waiting: int
    #: Cluster time in ms at which the oldest was accepted, None when none waits.
    oldest_ms: int | None


def ask_for_room(pipeline: Pipeline) -> None:
    """Add to a transaction what `room_from` needs the answers of."""
    pipeline.zrange(f"{PREFIX}waiting", 0, -1)
    pipeline.hgetall(f"{PREFIX}tenants:running")
    pipeline.hgetall(f"{PREFIX}tenants:served")
    pipeline.hgetall(f"{PREFIX}gates")


def room_from(answers: Sequence[Any]) -> WaitingRoom:
    """The waiting room by the answers to `ask_for_room`."""
    job_ids, running, served, gates = answers
    names = {text(name) for name in gates}
    return WaitingRoom(
        job_ids=tuple(map(text, job_ids)),
        running=_numbers(running),
        served=_numbers(served),
        gates=Gates.parse(names) if gates else None,
        version=text(gates.get(b"version")),
    )


class QueueStore:
    """The waiting room of the live state."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    def look(self) -> WaitingRoom:
        """Read everything that is not about single jobs, at one moment."""
        with translated():
            pipeline = self._redis.pipeline(transaction=True)
            ask_for_room(pipeline)
            return room_from(pipeline.execute())

    def specs(self, job_ids: Sequence[str]) -> list[LiveSpec | None]:
        """What the router has to know of jobs, None for those without a record."""
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.hmget(
                    f"{PREFIX}job:{job_id}", ("spec", "attempt", "losses", "prompt_tokens", "waits_since_ms", "hold")
                )
            answers = pipeline.execute()
        return [
            LiveSpec(
                spec=(decoded := codec.decode_spec(spec, b"")),
                attempt=int(attempt),
                losses=int(losses),
                prompt_tokens=int(prompt_tokens),
                # A process of an earlier version may have made it wait.
                waits_since_ms=int(waits_since_ms or decoded.created_ms),
                hold=_hold(text(hold)),
            )
            if spec
            else None
            for spec, attempt, losses, prompt_tokens, waits_since_ms, hold in answers
        ]

    def depths(self, models: Sequence[str]) -> list[QueueDepth]:
        """How many jobs wait for each of some models, and since when."""
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for model in models:
                key = f"{PREFIX}waiting" if model == EVERY_MODEL else f"{PREFIX}waiting:{model}"
                pipeline.zcard(key)
                pipeline.zrange(key, 0, 0, withscores=True)
            answers = pipeline.execute()
        return [
            QueueDepth(num_waiting=int(size), oldest_ms=int(oldest[0][1]) if oldest else None)
            for size, oldest in zip(answers[::2], answers[1::2], strict=True)
        ]

    def num_waiting_of(self, tenant: str) -> int:
        """How many jobs of a tenant wait for a place."""
        with translated():
            return int(self._redis.hget(f"{PREFIX}tenants:waiting", tenant) or 0)

    def set_paused(self, queue: str, *, paused: bool) -> None:
        """Close or open the gate of a model or of `EVERY_MODEL`, for jobs that come from now on."""
        (gate,) = Gates(paused=frozenset({queue})).names()
        with translated():
            self._scripts["set_gate"](args=[gate, "close" if paused else "open"])

    def set_gates(self, gates: Gates, seen_version: str) -> None:
        """Say which gates are closed; without effect if one was moved since the caller looked."""
        with translated():
            self._scripts["set_gates"](args=[seen_version, *gates.names()])


def _hold(written: str) -> Hold | None:
    if not written:
        return None
    until_ms, _, gpus = written.partition(" ")
    return Hold(gpus=tuple(GpuId.parse(gpu) for gpu in gpus.split(",")), until_ms=int(until_ms))


def _numbers(answer: dict[bytes, bytes]) -> dict[str, int]:
    return {text(name): int(number) for name, number in answer.items()}
