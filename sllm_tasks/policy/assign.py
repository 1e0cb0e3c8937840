"""Where a waiting job should run: every option priced in seconds until its first token, the cheapest taken."""

from __future__ import annotations

from collections.abc import Iterable

from sllm_tasks.estimators.base import Estimates
from sllm_tasks.policy.decision import Assignment, AssignmentPath, Candidate, Decision
from sllm_tasks.policy.options import Options
from sllm_tasks.policy.prices import Prices
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, WaitingJob

#: Of options that cost the same, the one that takes least from others.
_ORDER = tuple(AssignmentPath)


def assign(view: ClusterView, job: WaitingJob, estimates: Estimates, settings: PolicySettings) -> Decision:
    """Decide for one job; the same arguments give the same decision."""
    if job.model not in view.models:
        return Decision(choice=_wait(f"model {job.model} is not deployed"))
    # A job keeps the checkpoint and the shape it was accepted for, also when its model was deployed again since.
    options = Options(Prices(view, estimates, settings), job, view.model_of(job))
    warm = options.warm()
    if warm is not None:
        return Decision(choice=warm.assignment, candidates=(warm,))
    return _decide(options, settings)


def explain(view: ClusterView, job: WaitingJob, estimates: Estimates, settings: PolicySettings) -> Decision:
    """Decide as `assign` does, and price also what a warm replica makes superfluous."""
    decision = assign(view, job, estimates, settings)
    if decision.choice.path is not AssignmentPath.WARM:
        return decision
    options = Options(Prices(view, estimates, settings), job, view.model_of(job))
    others = [*decision.candidates, *options.joins(), *options.loads().candidates]
    return Decision(choice=decision.choice, candidates=_kept(others, decision.candidates[0], settings))


def _decide(options: Options, settings: PolicySettings) -> Decision:
    loads = options.loads()
    present, new = _ranked([*options.joins(), *options.slot(loads), *options.held()]), _ranked(loads.candidates)
    if not present:
        new = _ranked([*new, *options.memory(loads)])
    if present and not (new and new[0].price_s < settings.worth * present[0].price_s):
        best = present[0]
    elif new:
        best = new[0]
    else:
        return Decision(choice=_wait(loads.reason, fits_nowhere=loads.fits_nowhere), unknown=loads.unknown)
    candidates = _kept([*present, *new], best, settings)
    return Decision(choice=best.assignment, candidates=candidates, unknown=loads.unknown)


def _ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: (candidate.price_s, _ORDER.index(candidate.assignment.path)))


def _kept(candidates: Iterable[Candidate], best: Candidate, settings: PolicySettings) -> tuple[Candidate, ...]:
    """Keep the best few, the chosen one among them, cheapest first."""
    others = [candidate for candidate in _ranked(candidates) if candidate.assignment != best.assignment]
    return tuple(_ranked([best, *others[: settings.max_candidates - 1]]))


def _wait(reason: str, *, fits_nowhere: bool = False) -> Assignment:
    return Assignment(path=AssignmentPath.WAIT, reason=reason, fits_nowhere=fits_nowhere)
