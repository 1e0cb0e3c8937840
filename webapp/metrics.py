"""What `/metrics` shows: the cluster as it is now, what was counted over all of it, and this web process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sllm_tasks.cluster import EVERY_MODEL, GpuState, TierUsage
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.decisions import accuracy
from sllm_tasks.ledger.inventory import list_models
from sllm_tasks.livestate import LiveState
from sllm_tasks.metrics import METRICS, counts_of, histograms_of
from webapp.wait_slots import WaitSlots

#: Queues of more models than these are not shown one by one; the deepest are.
_MAX_QUEUES: Final = 100
#: As many of the last predictions are compared with what became of them.
_NUM_PREDICTIONS: Final = 200


class WebMetrics:
    """The registry of one web process, and what it counts itself."""

    def __init__(self, ledger: Database, live: LiveState, wait_slots: WaitSlots) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(ClusterCollector(ledger, live, wait_slots))
        self._requests = Counter(
            "sllm_http_requests", "Requests that were answered.", ("route", "status"), registry=self.registry
        )

    def count_request(self, route: str, status: int) -> None:
        """Count an answer; `route` is the rule, not the path, so that its values are bounded."""
        self._requests.labels(route, str(status)).inc()


class ClusterCollector(Collector):
    """Asks live state and ledger when it is scraped; what does not answer is left out and shown as down."""

    def __init__(self, ledger: Database, live: LiveState, wait_slots: WaitSlots) -> None:
        self._ledger = ledger
        self._live = live
        self._wait_slots = wait_slots

    def describe(self) -> list[Metric]:
        """Nothing: else the registry would ask once to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Ask everything once."""
        up = GaugeMetricFamily("sllm_up", "Whether a store answers the web process.", labels=("store",))
        yield from _answers(up, "live_state", self._counted, self._gpus, self._tiers, self._queues, self._migrations)
        yield from _answers(up, "ledger", self._predictions)
        yield up
        waiting = GaugeMetricFamily("sllm_sse_clients", "Streams and long polls that this web process holds.")
        waiting.add_metric((), self._wait_slots.num_taken)
        yield waiting

    def _counted(self) -> Iterator[Metric]:
        stored = self._live.metrics.read()
        for metric in METRICS:
            if metric.buckets:
                histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                bounds = (*map(str, metric.buckets), "+Inf")
                for labels, found in histograms_of(metric, stored).items():
                    histogram.add_metric(labels, list(zip(bounds, found.cumulative, strict=True)), found.sum)
                yield histogram
            else:
                counter = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in counts_of(metric, stored).items():
                    counter.add_metric(labels, value)
                yield counter
        for name, value in sorted(self._live.counters().items()):
            counter = CounterMetricFamily(f"sllm_{name}", "A counter of docs/state.md.")
            counter.add_metric((), value)
            yield counter

    def _gpus(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily("sllm_gpu_memory_bytes", "Memory of gpus.", labels=("node", "gpu", "kind"))
        states = GaugeMetricFamily("sllm_gpus", "Gpus whose workers live.", labels=("state",))
        room = self._live.queues.look()
        for gpu in (gpus := self._live.fleet.gpus()):
            at = (gpu.id.node, str(gpu.id.index))
            memory.add_metric((*at, "capacity"), gpu.capacity_bytes)
            memory.add_metric((*at, "reserved"), gpu.reserved_bytes)
        for state in GpuState:
            states.add_metric((state,), sum(gpu.state is state for gpu in gpus))
        running = GaugeMetricFamily("sllm_running_jobs", "Jobs that have a place.")
        running.add_metric((), sum(room.running.values()))
        yield from (memory, states, running)

    def _tiers(self) -> Iterator[Metric]:
        tiers = GaugeMetricFamily("sllm_tier_bytes", "Tiers of nodes.", labels=("node", "tier", "kind"))
        alive = GaugeMetricFamily("sllm_nodes", "Nodes that were ever heard of.", labels=("agent",))
        nodes = self._live.fleet.nodes(self._live.now_ms())
        for node in nodes:
            _add_tier(tiers, (node.name, "ssd"), node.ssd)
            _add_tier(tiers, (node.name, "dram"), node.dram)
        alive.add_metric(("up",), len(nodes))
        alive.add_metric(("down",), len(self._live.fleet.known_nodes()) - len(nodes))
        yield from (tiers, alive)

    def _migrations(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("sllm_running_migrations", "Migrations that are not over.")
        running.add_metric((), len(self._live.migrations.active()))
        yield running

    def _queues(self) -> Iterator[Metric]:
        names, now_ms = [EVERY_MODEL, *self._models()], self._live.now_ms()
        depths = list(zip(names, self._live.queues.depths(names), strict=True))
        shown = sorted(depths, key=lambda named: -named[1].num_waiting)[:_MAX_QUEUES]
        depth = GaugeMetricFamily("sllm_queue_depth", "Jobs without a place; * for all models.", labels=("model",))
        age = GaugeMetricFamily("sllm_queue_oldest_seconds", "Age of the oldest of them.", labels=("model",))
        for name, queue in shown:
            depth.add_metric((name,), queue.num_waiting)
            age.add_metric((name,), 0 if queue.oldest_ms is None else max(0, now_ms - queue.oldest_ms) / 1000)
        yield from (depth, age)

    def _models(self) -> list[str]:
        try:
            with self._ledger.reading() as session:
                return [row.name for row in list_models(session)]
        except UnavailableError:
            return []

    def _predictions(self) -> Iterator[Metric]:
        error = GaugeMetricFamily(
            "sllm_estimate_error_seconds",
            "Differences between predicted and actual starts of late.",
            labels=("quantile",),
        )
        with self._ledger.reading() as session:
            found = accuracy(session, limit=_NUM_PREDICTIONS)
        if found is not None:
            error.add_metric(("0.5",), found.median_error_s)
            error.add_metric(("0.99",), found.p99_error_s)
        yield error


def _answers(up: GaugeMetricFamily, store: str, *questions: Callable[[], Iterator[Metric]]) -> list[Metric]:
    try:
        found = [metric for ask in questions for metric in ask()]
    except UnavailableError:
        up.add_metric((store,), 0)
        return []
    up.add_metric((store,), 1)
    return found


def _add_tier(tiers: GaugeMetricFamily, labels: tuple[str, str], usage: TierUsage | None) -> None:
    if usage is not None:
        tiers.add_metric((*labels, "capacity"), usage.capacity_bytes)
        tiers.add_metric((*labels, "used"), usage.used_bytes)
