"""Measure on a live cluster what the scheduler promises: replicas over two gpus, deadlines, queues that are paused.

A replica over both gpus of a node loads and decodes; its leader is killed in the middle of a job, which goes on; in the
end both gpus are as they were. Jobs whose deadline passes before they begin, and while they decode. A queue that is
paused while jobs come, and resumed. Whatever is not as promised ends the script with an error.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from sqlalchemy import select

from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.demo_checkpoints import make_opt
from scripts.live_cluster import LiveCluster
from scripts.waiting import wait_for_reports, wait_until
from sllm_tasks.client import Client, Job, calls
from sllm_tasks.client.records import Token
from sllm_tasks.cluster import Replica
from sllm_tasks.config import load_settings
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import to_ms
from sllm_tasks.ledger.tables import JobRow
from sllm_tasks.livestate import LiveState

_PAIR, _ALONE = "pair", "alone"
#: Seconds that jobs of the pair take, so that its leader dies in the middle.
_NUM_TOKENS, _KILLED_AT = 300, 50
_PROMPT = "what can two do?"
#: No job of `alone` begins while one decodes that lasts for longer than this.
_DEADLINE_S = 1.0
_HELD_S = 3.0


class Bench:
    """The cluster with everything that opens it."""

    def __init__(self, cluster: LiveCluster, client: Client, live: LiveState, ledger: Database, num_jobs: int) -> None:
        self._cluster = cluster
        self._client = client
        self._live = live
        self._ledger = ledger
        self._num_jobs = num_jobs

    def deploy(self, folder: Path) -> None:
        """Deploy the same weights twice: over two gpus, and on one that takes a job at a time."""
        source = str(make_opt(folder / "opt", num_layers=12))
        for name, settings in (
            (_PAIR, {"num_gpus": 2, "keep_alive_s": 1, "max_jobs": 4}),
            (_ALONE, {"keep_alive_s": 3600, "max_jobs": 1, "max_replicas": 1}),
        ):
            operation = self._client.deploy(name, source, context=1024, **settings)
            self._client.wait_for(operation, timeout=600)

    def pairs(self, rounds: int) -> list[Row]:
        """Load a replica over two gpus, kill its leader while it decodes, and see that all memory comes back."""
        expected = self._submit(_ALONE, _NUM_TOKENS).result(timeout=120).text
        starts, pauses, frees = [], [], []
        for _ in range(rounds):
            submitted_s = time.perf_counter()
            job, came_s = self._submit(_PAIR, _NUM_TOKENS), list[float]()
            for item in self._client.stream(job.id):
                if isinstance(item, Token) and item.index == len(came_s):
                    came_s.append(time.perf_counter())
                    if len(came_s) == _KILLED_AT:
                        self._kill_leader()
            ended_s = time.perf_counter()
            _check(job.result(timeout=1).text == expected, f"{job.id}: its text is that of one gpu")
            _check(len(came_s) == _NUM_TOKENS, f"{job.id}: each token came")
            wait_until(self._is_free, "memory of both gpus")
            starts.append(came_s[0] - submitted_s)
            pauses.append(max(after - before for before, after in pairwise(came_s)))
            frees.append(time.perf_counter() - ended_s)
        return [
            Row("two gpus: cold start", "s", tuple(starts)),
            Row("two gpus: pause by the death of the leader", "s", tuple(pauses)),
            Row("two gpus: all memory free after the end", "s", tuple(frees)),
        ]

    def deadlines(self) -> tuple[list[Row], dict[str, float]]:
        """Jobs with a deadline behind one that decodes, and jobs whose own decoding lasts longer than theirs."""
        busy = self._submit(_ALONE, 1000)
        wait_until(lambda: busy.refresh().status is JobStatus.RUNNING, "a busy replica")
        waiting = [self._submit(_ALONE, 8, deadline_s=_DEADLINE_S) for _ in range(self._num_jobs)]
        wait_until(lambda: all(job.refresh().status.is_terminal for job in waiting), "the end of those that wait")
        busy.cancel()
        # As many as decode one after the other, each for as long as it may.
        decoding = []
        for _ in range(self._num_jobs):
            decoding.append(self._submit(_ALONE, 1000, deadline_s=_DEADLINE_S))
            wait_until(lambda: decoding[-1].refresh().status.is_terminal, "the end of one that decodes")
        return (
            [
                Row("deadline passed while waiting: end after it", "s", self._late_s(waiting)),
                Row("deadline passed while decoding: end after it", "s", self._late_s(decoding)),
            ],
            {
                "waiting_expired_share": self._share(waiting, JobStatus.EXPIRED),
                "decoding_canceled_share": self._share(decoding, JobStatus.CANCELED),
            },
        )

    def pause(self) -> tuple[list[Row], dict[str, float]]:
        """Pause a queue, let jobs come, and resume it."""
        self._client.run(calls.pause_queue(_ALONE))
        held = [self._submit(_ALONE, 8) for _ in range(self._num_jobs)]
        time.sleep(_HELD_S)
        num_held = sum(job.refresh().status is JobStatus.QUEUED for job in held)
        resumed_ms = self._live.now_ms()
        self._client.run(calls.resume_queue(_ALONE))
        texts = [job.result(timeout=120).text for job in held]
        wait_for_reports(self._live)
        starts = sorted((to_ms(row.started_at) - resumed_ms) / 1_000 for row in self._rows(held) if row.started_at)
        return (
            [Row("paused queue: claimed after it is resumed", "s", tuple(starts))],
            {
                "held_while_paused_share": num_held / len(held),
                "ended_after_resume_share": sum(map(bool, texts)) / len(texts),
            },
        )

    def _submit(self, model: str, max_tokens: int, *, deadline_s: float | None = None) -> Job:
        return self._client.submit(
            model=model, prompt=_PROMPT, max_tokens=max_tokens, ignore_eos=True, deadline_s=deadline_s
        )

    def _kill_leader(self) -> None:
        leader = next(replica.leader for replica in self._replicas() if replica.model == _PAIR)
        pid = self._cluster.pid(f"worker-{leader}")
        _check(pid is not None, "the leader's worker is up")
        os.kill(pid or 0, signal.SIGKILL)

    def _replicas(self) -> list[Replica]:
        fleet = self._live.fleet
        ids = dict.fromkeys(id_ for gpu in fleet.gpus() for id_ in fleet.replicas_on(gpu.id))
        return [order.replica for order in fleet.replicas(list(ids)) if order is not None]

    def _is_free(self) -> bool:
        """Whether both gpus are up, and what is held of them is what the replicas on one gpu take."""
        gpus, replicas = self._live.fleet.gpus(), self._replicas()
        held = {gpu.id: sum(each.bytes_per_gpu for each in replicas if gpu.id in each.gpus) for gpu in gpus}
        is_as_before = all(gpu.reserved_bytes == held[gpu.id] for gpu in gpus)
        return len(gpus) == 2 and is_as_before and all(replica.model != _PAIR for replica in replicas)

    def _rows(self, jobs: Sequence[Job]) -> list[JobRow]:
        with self._ledger.reading() as session:
            return list(session.scalars(select(JobRow).where(JobRow.id.in_([job.id for job in jobs]))))

    def _late_s(self, jobs: Sequence[Job]) -> tuple[float, ...]:
        rows = self._rows(jobs)
        return tuple(
            (to_ms(row.ended_at) - to_ms(row.created_at)) / 1_000 - _DEADLINE_S for row in rows if row.ended_at
        )

    def _share(self, jobs: Sequence[Job], status: JobStatus) -> float:
        return sum(row.status == status for row in self._rows(jobs)) / len(jobs)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"this does not hold: {what}")


def measure(bench: Bench, rounds: int) -> Report:
    """Run all parts."""
    rows = bench.pairs(rounds)
    late, ended = bench.deadlines()
    started, held = bench.pause()
    figures = {**ended, **held}
    for name, share in figures.items():
        _check(share == 1, f"{name} is {share:.0%}")
    return Report(settings={"rounds": rounds, "nodes": 1, "gpus": 2}, rows=[*rows, *late, *started], figures=figures)


def main() -> None:
    """Run the checks and report their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_report_argument(parser)
    parser.add_argument("--rounds", type=int, default=5, help="replicas over two gpus whose leader is killed")
    parser.add_argument("--jobs", type=int, default=10, help="jobs of each other part")
    arguments = parser.parse_args()
    environ = {"SLLM_NODES": "1", "SLLM_GPUS_PER_NODE": "2", "SLLM_GPU_MEMORY_BYTES": "1000000000"}
    with tempfile.TemporaryDirectory(prefix="sllm-bench-") as folder, LiveCluster(environ) as cluster:
        settings, _ = load_settings(environ={"SLLM_HOME": str(cluster.home)})
        ledger = Database(settings.ledger_url)
        with LiveState(settings.live_url) as live, Client(cluster.url, cluster.api_key) as client:
            bench = Bench(cluster, client, live, ledger, arguments.jobs)
            bench.deploy(Path(folder))
            report = measure(bench, arguments.rounds)
        ledger.close()
    finish(report, arguments.json)


if __name__ == "__main__":
    main()
