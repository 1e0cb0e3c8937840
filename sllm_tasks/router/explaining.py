"""What the router would do for a job, priced with the same code on the same facts, and not done."""

from __future__ import annotations

import threading
from typing import Any

from sllm_tasks.errors import NotFoundError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.decisions import accuracy
from sllm_tasks.livestate import LiveState
from sllm_tasks.policy.assign import explain
from sllm_tasks.policy.view import WaitingJob
from sllm_tasks.router.describing import describe_candidates, describe_choice
from sllm_tasks.router.routing import LIVE_POLICY
from sllm_tasks.router.running import with_jobs_of, with_running_jobs
from sllm_tasks.router.snapshot import Snapshot


class Explainer:
    """Follows cluster and ledger only while somebody asks; may be called by any thread."""

    def __init__(self, live: LiveState, ledger: Database) -> None:
        self._live = live
        self._ledger = ledger
        # Held while the picture is brought up to date and decided on.
        self._lock = threading.Lock()
        self._snapshot = Snapshot(live, ledger)

    def explain(self, model: str, prompt_tokens: int) -> dict[str, Any]:
        """Price all options of a job that would come now.

        Raises:
            NotFoundError: No ready model has that name.
            UnavailableError: The live state or the ledger does not answer.

        """
        with self._lock:
            view = self._snapshot.view()
            if model not in view.models:
                self._snapshot.read_models()
                view = self._snapshot.view()
            if model not in view.models:
                raise NotFoundError(f"there is no ready model {model!r}")
            job = WaitingJob(
                id="explain", model=model, attempt=1, created_ms=view.now_ms, waits_since_ms=view.now_ms,
                prompt_tokens=prompt_tokens,
            )  # fmt: skip
            view = with_running_jobs(self._live, view, job)
            self._snapshot.learn(view.now_ms)
            decision = explain(view, job, self._snapshot.estimates, LIVE_POLICY)
            if decision.unknown:
                view = with_jobs_of(self._live, view, [view.replicas[replica_id] for replica_id in decision.unknown])
                decision = explain(view, job, self._snapshot.estimates, LIVE_POLICY)
        with self._ledger.reading() as session:
            found = accuracy(session, model=model)
        return {
            "object": "explanation",
            "model": model,
            "prompt_tokens": prompt_tokens,
            "choice": describe_choice(decision),
            "candidates": describe_candidates(decision),
            "accuracy": None
            if found is None
            else {
                "num_decisions": found.num_decisions,
                "inside": round(found.inside, 4),
                "median_error_s": round(found.median_error_s, 4),
                "p99_error_s": round(found.p99_error_s, 4),
            },
        }
