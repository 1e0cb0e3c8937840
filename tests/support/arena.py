"""Where a cluster meets faults: reference answers first, then case by case, each followed by the checker."""

from __future__ import annotations

import time

from tests.faults.cases.common import QUESTIONS, Case
from tests.support.cluster import Cluster
from tests.support.invariants import Findings, check
from tests.support.load import Load, answers


class Arena:
    """A running cluster with the answers that it gives when nothing disturbs it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._expected = answers(self._new_load(), QUESTIONS)

    def meet(self, case: Case) -> Findings:
        """Let a fault happen and look at everything afterwards; AssertionError if it did not come about."""
        started_s = time.monotonic()
        load = self._new_load()
        try:
            case(self._cluster, load)
            findings = check(self._cluster, load, self._expected)
        finally:
            self._cluster.disarm_all()
            for watcher in load.watchers:
                watcher.stop()
        seconds = time.monotonic() - started_s
        print(f"{case.__name__}: {len(load.jobs)} jobs, {seconds:.1f} s; {findings}", flush=True)
        return findings

    def _new_load(self) -> Load:
        return Load(self._cluster.client, self._cluster.api_key)
