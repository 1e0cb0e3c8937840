"""The one door to the live state: a connection, the cluster's clock, and a room per kind of thing."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError as RedisOutOfMemoryError
from redis.retry import Retry

from sllm_tasks.livestate.clock import ServerClock
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
        #: Cluster time.
        self.clock = ServerClock(self._redis.time)

    def now_ms(self) -> int:
        """Cluster time; raises UnavailableError while it is not known at all."""
        return self.clock.now_ms()

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
