"""Running jobs for a decision: read only when the replicas that could serve it are full, and only those."""

from __future__ import annotations

from sllm_tasks.livestate import LiveState
from sllm_tasks.policy.view import ClusterView, RunningJob, WaitingJob


def with_running_jobs(live: LiveState, view: ClusterView, job: WaitingJob) -> ClusterView:
    """Add what a decision about waiting for a slot needs to know; a warm replica with room needs nothing."""
    if job.model not in view.models:
        return view
    serving = view.serving(view.model_of(job))
    if not serving or any(replica.has_room for replica in serving):
        return view
    unknown = [replica for replica in serving if replica.id not in view.running]
    if not unknown:
        return view
    found: dict[str, list[RunningJob]] = {replica.id: [] for replica in unknown}
    for placed in live.router.placed_jobs(sorted({replica.leader for replica in unknown})):
        if placed.replica_id in found:
            running = RunningJob(
                id=placed.job_id,
                model=job.model,
                prompt_tokens=placed.prompt_tokens,
                max_tokens=placed.max_tokens,
                started_ms=placed.first_token_ms,
                num_tokens=placed.num_tokens,
            )
            found[placed.replica_id].append(running)
    return view.with_running({**view.running, **{id_: tuple(jobs) for id_, jobs in found.items()}})
