"""The router's picture of the cluster, kept up to date by the change feed rather than read anew for every job."""

from __future__ import annotations

import logging
import time
from typing import Final

from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, NodeInfo, ReplicaState, Tier
from sllm_tasks.errors import UnavailableError
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.jobs import StartKind
from sllm_tasks.learning import Learning
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.inventory import list_models, model_info
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.fleet import ReplicaOrder
from sllm_tasks.livestate.queues import WaitingRoom
from sllm_tasks.livestate.router import Feed
from sllm_tasks.policy.replica_table import ReplicaTable
from sllm_tasks.policy.view import ClusterView, LoadUnderWay

logger = logging.getLogger(__name__)

#: Models are read from the ledger at most this often, unless a job names one that is not known.
_MODELS_LIFE_S = 1.0
_NODES_LIFE_MS = 1_000

#: Where the bytes of a cold start come from.
TIERS: Final = {
    StartKind.COLD_DRAM: Tier.DRAM,
    StartKind.COLD_SSD: Tier.SSD,
    StartKind.COLD_REMOTE: Tier.REMOTE,
}


class Snapshot:
    """Reads again what the feed names; reads everything when it lost its place in the feed."""

    def __init__(self, live: LiveState, ledger: Database) -> None:
        self._live = live
        self._ledger = ledger
        self._learning = Learning(ledger)
        self._position = ""
        self._gpus: dict[GpuId, Gpu] = {}
        self._replicas = ReplicaTable()
        # Those of them that are being loaded.
        self._loading: dict[str, ReplicaOrder] = {}
        self._nodes: dict[str, NodeInfo] = {}
        self._models: dict[str, ModelInfo] = {}
        self._models_read_s = float("-inf")
        # When the ledger was asked for them in vain.
        self._models_missed_s = float("-inf")
        self._nodes_read_ms = 0

    def begin_pass(self) -> tuple[ClusterView, WaitingRoom]:
        """Return the cluster and the waiting room as they are now; raises UnavailableError."""
        feed, room = self._live.router.begin_pass(self._position)
        return self._view(feed), room

    def view(self) -> ClusterView:
        """Return the cluster as it is now; raises UnavailableError."""
        return self._view(self._live.router.changes(self._position) if self._position else None)

    def _view(self, feed: Feed | None) -> ClusterView:
        now_ms = self._live.now_ms()
        if feed is None:
            self._read_everything(now_ms)
        else:
            self._follow(feed, now_ms)
        if time.monotonic() - self._models_read_s > _MODELS_LIFE_S:
            self.refresh_models()
        return ClusterView(
            now_ms=now_ms,
            gpus=dict(self._gpus),
            replicas=self._replicas,
            nodes=dict(self._nodes),
            models=dict(self._models),
            loads=self._loads(now_ms),
        )

    @property
    def estimates(self) -> LearnedEstimates:
        """What the ledger has taught so far."""
        return self._learning.estimates

    def learn(self, now_ms: int) -> None:
        """Learn what the ledger has to tell since; reading it takes longer than a decision, so not before one."""
        self._learning.follow(now_ms)

    def refresh_models(self) -> None:
        """Read the deployed models, unless the ledger did not answer a moment ago; without it they are as they were."""
        if time.monotonic() - self._models_missed_s <= _MODELS_LIFE_S:
            return
        try:
            self.read_models()
        except UnavailableError as error:
            # Running jobs whose worker dies are to find a new place while the ledger is away.
            logger.warning("models are not read anew: %s", error)
            self._models_missed_s = time.monotonic()

    def read_models(self) -> None:
        """Read the deployed models from the ledger; raises UnavailableError."""
        with self._ledger.reading() as session:
            rows = list_models(session, ready_only=True)
        self._models = {row.name: model_info(row) for row in rows}
        self._models_read_s = time.monotonic()

    def _follow(self, feed: Feed, now_ms: int) -> None:
        for change in feed.changes:
            if change.kind == "gpu":
                self._read_gpu(GpuId.parse(change.id))
        self._read_replicas([change.id for change in feed.changes if change.kind == "replica"])
        # A node that falls silent leaves no change behind.
        overdue = now_ms - self._nodes_read_ms > _NODES_LIFE_MS
        if overdue or any(change.kind == "node" for change in feed.changes):
            self._read_nodes(now_ms)
        # Not before all was read: what a pass that was given up did not read is in the next one's feed.
        self._position = feed.position

    def _read_everything(self, now_ms: int) -> None:
        # The position first: what changes while we read is read once more.
        position = self._live.router.feed_end()
        self._gpus = {gpu.id: gpu for gpu in self._live.fleet.gpus()}
        ids = {id_ for gpu in self._gpus for id_ in self._live.fleet.replicas_on(gpu)}
        orders = self._live.fleet.replicas(sorted(ids))
        self._replicas = ReplicaTable(order.replica for order in orders if order is not None)
        self._loading = {order.replica.id: order for order in orders if order is not None and _is_loading(order)}
        self._read_nodes(now_ms)
        self._position = position
        self.learn(now_ms)
        logger.info("snapshot read anew: %d gpus, %d replicas", len(self._gpus), len(self._replicas))

    def _read_gpu(self, gpu_id: GpuId) -> None:
        gpu = self._live.fleet.gpu(gpu_id)
        if gpu is None:
            self._gpus.pop(gpu_id, None)
        else:
            self._gpus[gpu_id] = gpu

    def _read_replicas(self, replica_ids: list[str]) -> None:
        orders = dict(zip(replica_ids, self._live.fleet.replicas(replica_ids), strict=True))
        gone = [replica_id for replica_id, order in orders.items() if order is None]
        changed = [order.replica for order in orders.values() if order is not None]
        self._replicas = self._replicas.without(gone).with_replicas(changed)
        for replica_id, order in orders.items():
            self._loading.pop(replica_id, None)
            if order is not None and _is_loading(order):
                self._loading[replica_id] = order

    def _read_nodes(self, now_ms: int) -> None:
        self._nodes = {node.name: node for node in self._live.fleet.nodes(now_ms)}
        self._nodes_read_ms = now_ms

    def _loads(self, now_ms: int) -> dict[str, tuple[LoadUnderWay, ...]]:
        """Loads by node, in the order in which they were decided."""
        found: dict[str, tuple[LoadUnderWay, ...]] = {}
        for order in sorted(self._loading.values(), key=lambda order: (order.replica.idle_since_ms, order.replica.id)):
            replica, model = order.replica, self._models.get(order.replica.model)
            tier = Tier.SSD if order.start_kind is None else TIERS.get(order.start_kind, Tier.SSD)
            load = LoadUnderWay(
                replica_id=replica.id,
                gpus=replica.gpus,
                tier=tier,
                remaining_bytes=_remaining_bytes(order, model, tier),
                age_s=0.0 if order.noted_ms is None else max(0, now_ms - order.noted_ms) / 1_000,
            )
            found[load.node] = (*found.get(load.node, ()), load)
        return found


def _is_loading(order: ReplicaOrder) -> bool:
    return order.replica.state is ReplicaState.LOADING


def _remaining_bytes(order: ReplicaOrder, model: ModelInfo | None, tier: Tier) -> int:
    """What is still to come through that tier, as `ModelInfo.bytes_through` counts it."""
    whole = model.bytes_through(tier) if model else order.replica.bytes_per_gpu
    # Noted is what all gpus have together.
    num_ways = len(order.replica.gpus) if tier is Tier.DRAM else 1
    return max(0, whole - order.loaded_bytes // num_ways)
