"""What a move is expected to take that no decision of the router has priced: one for an operator or a drain."""

from __future__ import annotations

import threading

from sllm_tasks.cluster import Replica, Tier
from sllm_tasks.errors import NotFoundError
from sllm_tasks.estimators.estimate import ZERO, Estimate
from sllm_tasks.estimators.moves import MoveTime, move_time
from sllm_tasks.learning import Learning
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.inventory import get_checkpoint
from sllm_tasks.livestate import LiveState
from sllm_tasks.migration.targets import Place, Surroundings


class Forecasts:
    """Follows the ledger only while somebody asks; safe to use from many threads."""

    def __init__(self, live: LiveState, ledger: Database) -> None:
        self._live = live
        self._ledger = ledger
        # Held while estimates are brought up to date and asked.
        self._lock = threading.Lock()
        self._learning = Learning(ledger)

    def of_move(self, job_id: str, source: Replica, place: Place, around: Surroundings) -> MoveTime | None:
        """Time until a running job has arrived, the load included if there is one; None for a job without a record."""
        (job,) = self._live.queues.specs([job_id])
        view = self._live.jobs.view(job_id)
        if job is None or view is None:
            return None
        beside = [replica.num_jobs for replica in around.replicas if replica.id == place.replica_id]
        with self._lock:
            self._learning.follow(self._live.now_ms())
            load = ZERO if place.replica_id else self._loading(source, place, around)
            time = move_time(
                self._learning.estimates,
                source.model,
                num_tokens=job.prompt_tokens + view.num_tokens,
                token_s=self._learning.estimates.token_time(
                    source.model, max(1, source.num_jobs), node=source.leader.node
                ).seconds,
                num_there=sum(beside) + 1,
            )
        return MoveTime(whole=load + time.whole, pause_s=time.pause_s)

    def _loading(self, source: Replica, place: Place, around: Surroundings) -> Estimate:
        node = place.gpus[0].node
        in_dram = any(each.name == node and source.checkpoint in each.in_dram for each in around.nodes)
        try:
            with self._ledger.reading() as session:
                num_bytes = get_checkpoint(session, source.checkpoint).num_bytes
        except NotFoundError:
            return ZERO
        tier = Tier.DRAM if in_dram else Tier.SSD
        return self._learning.estimates.loading(node, tier, num_bytes // (len(place.gpus) if in_dram else 1))
