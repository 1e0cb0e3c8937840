"""The counts behind /metrics that belong to the cluster and not to a process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from redis import Redis

from sllm_tasks.livestate.connection import PREFIX, text, translated
from sllm_tasks.metrics import Sample

_KEY = f"{PREFIX}metrics"


class MetricStore:
    """One hash: a field per counter, bucket and sum."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, samples: Sequence[Sample]) -> None:
        """Count in one round trip, which touches each field once however many samples there are."""
        amounts: defaultdict[str, float] = defaultdict(float)
        for sample in samples:
            for field, amount in sample.increments():
                amounts[field] += amount
        if amounts:
            with translated():
                pipeline = self._redis.pipeline(transaction=False)
                for field, amount in amounts.items():
                    pipeline.hincrbyfloat(_KEY, field, amount)
                pipeline.execute()

    def read(self) -> dict[str, float]:
        """All fields, for `sllm_tasks.metrics` to make sense of."""
        with translated():
            return {text(field): float(value) for field, value in self._redis.hgetall(_KEY).items()}
