"""What the parts of an option cost, in seconds of startup: asked by everything that makes options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sllm_tasks.cluster import GpuId, ModelInfo, Replica, ReplicaState, Tier
from sllm_tasks.estimators.base import Estimates
from sllm_tasks.estimators.estimate import ZERO, Estimate
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, LoadUnderWay, RunningJob

#: The probability of what the operator says; no estimate of a job to come reaches it.
SURE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in one view of the cluster."""

    view: ClusterView
    estimates: Estimates
    settings: PolicySettings

    def loading(self, model: ModelInfo, gpus: tuple[GpuId, ...], tier: Tier) -> Estimate:
        """Time until a replica would be loaded, those that go before it on the node's loader included."""
        num_bytes, node = model.bytes_through(tier), gpus[0].node
        queued_bytes, before = 0, ZERO
        for load in self.view.loads.get(node, ()):
            if not _are_apart(load.gpus, gpus):
                # A worker loads one replica after the other.
                before += self._left(load)
            elif load.tier is tier and tier is not Tier.DRAM and load.remaining_bytes <= num_bytes:
                # The node's disk or link serves the smaller rest first; DRAM has a way to each gpu.
                queued_bytes += load.remaining_bytes
        return before + self.estimates.loading(node, tier, num_bytes, queued_bytes=queued_bytes)

    def overtaking_s(self, model: ModelInfo, gpus: tuple[GpuId, ...], tier: Tier) -> float:
        """What a load costs larger ones of its node, which it goes before."""
        if tier is Tier.DRAM:
            return 0.0
        num_bytes = model.bytes_through(tier)
        larger = [
            load
            for load in self.view.loads.get(gpus[0].node, ())
            if load.tier is tier and load.remaining_bytes > num_bytes and _are_apart(load.gpus, gpus)
        ]
        return len(larger) * self.estimates.loading(gpus[0].node, tier, num_bytes).seconds if larger else 0.0

    def rest_of_load(self, replica: Replica) -> Estimate:
        """Time until a replica that is being loaded is ready."""
        loads = self.view.loads.get(replica.leader.node, ())
        own = next((load for load in loads if load.replica_id == replica.id), None)
        if own is None:
            return ZERO
        rest = self._left(own)
        for load in loads:
            smaller = load.tier is own.tier is not Tier.DRAM and load.remaining_bytes < own.remaining_bytes
            if load.replica_id != own.replica_id and smaller and _are_apart(load.gpus, own.gpus):
                rest += self._left(load)
        return rest + self._loads_before(own, loads)

    def eviction_s(self, replica: Replica) -> float:
        """What evicting an idle replica costs: its reload, weighed by how likely somebody will wait for it."""
        if replica.model not in self.view.models or not self.view.takes_jobs(replica):
            return 0.0
        return self.wanted(replica) * self.reload_s(replica) / max(1, len(self._ready(replica.model)))

    def wanted(self, replica: Replica) -> float:
        """Probability that a job of an idle replica's model comes soon; `SURE` for one that its model has to keep."""
        model = self.view.models.get(replica.model)
        if model is None or not self.view.takes_jobs(replica):
            return 0.0
        if len(self._ready(replica.model)) <= model.min_replicas:
            return SURE
        idle_s = max(0, self.view.now_ms - replica.idle_since_ms) / 1000
        return self.estimates.wanted(replica.model, self.settings.wanted_within_s, idle_s)

    def reload_s(self, replica: Replica) -> float:
        """Time to load a replica of a deployed model once more where it is."""
        node, model = replica.leader.node, self.view.models[replica.model]
        tier = self.view.tier_on(node, replica.checkpoint)
        return self.estimates.loading(node, tier, model.bytes_through(tier)).seconds

    def _ready(self, model: str) -> list[Replica]:
        return [other for other in self.view.replicas_of(model) if other.state is ReplicaState.READY]

    def num_tokens(self, job: RunningJob, replica: Replica) -> int:
        """Tokens that a job running there has produced: counted, or its age divided by the mean time of a token."""
        if job.num_tokens is not None:
            return job.num_tokens
        if job.started_ms is None:
            return 0
        elapsed_s = max(0, self.view.now_ms - job.started_ms) / 1000
        return min(job.max_tokens, int(elapsed_s / max(1e-6, self.token_s(replica))))

    def token_s(self, replica: Replica) -> float:
        """Time from one token of a job there to its next."""
        return self.estimates.token_time(replica.model, max(1, replica.num_jobs), node=replica.leader.node).seconds

    def ends_s(self, replica: Replica) -> list[float]:
        """When the jobs of a replica end, first to last.

        Of jobs that nobody looked at, the next one ends when a share of a typical job's time has passed: they are at
        any point of their lives.
        """
        token_s = self.token_s(replica)
        known = self.view.running.get(replica.id, ())
        ends = [self._arrives_s(job) if job.moves_to else self._tokens_left(job, replica) * token_s for job in known]
        num_unknown = max(0, replica.num_jobs - len(known))
        whole_s = self.estimates.tokens_left(replica.model, 0, replica.context) * token_s
        ends += [whole_s * (index + 1) / (num_unknown + 1) for index in range(num_unknown)]
        load_s = self.rest_of_load(replica).seconds if replica.state is ReplicaState.LOADING else 0.0
        return sorted(end_s + load_s for end_s in ends)

    def _arrives_s(self, job: RunningJob) -> float:
        """When a job that moves is where it goes, at the latest."""
        target = self.view.replicas.get(job.moves_to)
        if target is None:
            return 0.0
        num_tokens = job.prompt_tokens + self.num_tokens(job, target)
        load_s = self.rest_of_load(target).seconds if target.state is ReplicaState.LOADING else 0.0
        return load_s + self.estimates.migration(job.model, max(1, target.num_jobs), num_tokens).seconds

    def _tokens_left(self, job: RunningJob, replica: Replica) -> float:
        return self.estimates.tokens_left(job.model, self.num_tokens(job, replica), job.max_tokens)

    def _loads_before(self, own: LoadUnderWay, loads: tuple[LoadUnderWay, ...]) -> Estimate:
        """Time of the loads that the same workers have begun, or will, before this one."""
        before = ZERO
        for load in loads:
            if load.replica_id == own.replica_id:
                break
            if not _are_apart(load.gpus, own.gpus):
                before += self._left(load)
        return before

    def _left(self, load: LoadUnderWay) -> Estimate:
        """Time that a load still takes when no other one is in its way."""
        return self.estimates.loading(load.node, load.tier, load.remaining_bytes).less(load.age_s)


def _are_apart(some: tuple[GpuId, ...], others: tuple[GpuId, ...]) -> bool:
    return not any(gpu in others for gpu in some)
