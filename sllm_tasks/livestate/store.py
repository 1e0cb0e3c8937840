"""The one door to the live state: a connection, the cluster's clock, and a room per kind of thing."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError as RedisOutOfMemoryError
from redis.exceptions import RedisError
from redis.retry import Retry

from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate.connection import PREFIX, text, translated
from sllm_tasks.livestate.drains import DrainStore
from sllm_tasks.livestate.fleet import FleetStore
from sllm_tasks.livestate.jobs import JobStore
from sllm_tasks.livestate.metrics import MetricStore
from sllm_tasks.livestate.migrations import MigrationStore
from sllm_tasks.livestate.operations import OperationStore
from sllm_tasks.livestate.queues import QueueStore
from sllm_tasks.livestate.rates import RateStore
from sllm_tasks.livestate.reports import ReportStore
from sllm_tasks.livestate.router import RouterStore
from sllm_tasks.livestate.scripts import Scripts

#: How long the offset between our monotonic clock and the server's clock is trusted.
_CLOCK_LIFE_S = 5.0


class LiveState:
    """Safe to use from many threads; every method raises UnavailableError when Redis does not answer in time.

    The connection gives up after `timeout_s` and does not retry: whoever calls knows whether waiting makes sense.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0, max_connections: int | None = None) -> None:
        self._redis = Redis.from_url(
            url,
            # redis-py's own limit of 100 is less than the threads of a web process.
            max_connections=max_connections,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(timeout_s, 2.0),
            retry=Retry(NoBackoff(), 0),
            client_name="sllm-live",
            # A unix socket needs no keep-alive, and its connection class does not know the option.
            **({} if url.startswith("unix") else {"socket_keepalive": True}),
        )
        scripts = Scripts(self._redis)
        self.jobs = JobStore(self._redis, scripts)
        self.fleet = FleetStore(self._redis, scripts)
        self.metrics = MetricStore(self._redis)
        self.drains = DrainStore(self._redis, scripts)
        self.migrations = MigrationStore(self._redis, scripts)
        self.operations = OperationStore(self._redis, scripts)
        self.queues = QueueStore(self._redis, scripts)
        self.rates = RateStore(scripts)
        self.reports = ReportStore(self._redis)
        self.router = RouterStore(self._redis, scripts)
        # Guarded by the lock: server time minus our monotonic time, and when that was measured.
        self._clock_lock = threading.Lock()
        self._clock_offset_s: float | None = None
        self._clock_read_at_s = 0.0

    def now_ms(self) -> int:
        """Cluster time: the server's clock, so that one process with a wrong clock does no harm.

        While the server is away the last known offset goes on; without one, this raises UnavailableError.
        """
        with self._clock_lock:
            monotonic_s = time.monotonic()
            if self._clock_offset_s is None or monotonic_s - self._clock_read_at_s > _CLOCK_LIFE_S:
                try:
                    seconds, micros = self._redis.time()
                except RedisError as error:
                    if self._clock_offset_s is None:
                        raise UnavailableError(f"the live state does not tell the time: {error}") from error
                else:
                    self._clock_offset_s = seconds + micros / 1e6 - monotonic_s
                self._clock_read_at_s = monotonic_s
            return int((self._clock_offset_s + monotonic_s) * 1000)

    def ping(self) -> None:
        """Raise UnavailableError unless the server answers."""
        with translated():
            self._redis.ping()

    def memory_is_full(self) -> bool:
        """Whether the server refuses writes for want of memory (`noeviction`)."""
        with translated():
            try:
                self._redis.set(f"{PREFIX}probe", 1, ex=60)
            except RedisOutOfMemoryError:
                return True
        return False

    def written_at_ms(self) -> int:
        """Write something and tell the server's time of it; without memory this raises UnavailableError too."""
        with translated():
            probe = self._redis.pipeline()
            probe.set(f"{PREFIX}probe", 1, ex=60)
            probe.time()
            _, (seconds, micros) = probe.execute()
            return int(seconds) * 1000 + int(micros) // 1000

    def counters(self) -> dict[str, int]:
        """Counts of refused writes and messages and of the sweeper's work, since the live state was made."""
        with translated():
            return {text(name): int(value) for name, value in self._redis.hgetall(f"{PREFIX}counters").items()}

    def count(self, name: str) -> None:
        """Add one to a counter."""
        with translated():
            self._redis.hincrby(f"{PREFIX}counters", name, 1)

    def close(self) -> None:
        """Close the connections; idempotent."""
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
