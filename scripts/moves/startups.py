"""How soon a model starts whose checkpoint is in the DRAM of a busy node, by four policies.

The case of section 5 of ServerlessLLM (OSDI '24): A runs on the node that has B's checkpoint in its DRAM, the other
node is idle and has it on its SSD.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from statistics import median

from scripts.bench_report import Report, Row
from scripts.moves.checkpoints import make_llama_to_time
from scripts.moves.cluster import MODEL as RUNNING
from scripts.moves.cluster import MovingCluster, Reader, make_source, open_cluster
from scripts.moves.ways import place, take_back
from scripts.waiting import wait_until
from sllm_tasks.client import Job, calls
from sllm_tasks.cluster import GpuId, ModelInfo
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.inventory import list_models, model_info
from sllm_tasks.livestate.router import NewReplica

_STARTED = "started"
#: B: 2.5 GB in fp32, nearly all of it the embedding's two ends, so that bytes and not products take its time; A is the
#: small model of the other measurements.
_HIDDEN_SIZE, _NUM_LAYERS, _VOCAB_SIZE = 2048, 2, 140_000
_CONTEXT = 1024
_MAX_JOBS = 4
_KEEP_ALIVE_S = 2.0
#: Tokens of A's job, and how many it has when B's comes.
_TOKENS, _TOKENS_BEFORE = 400, 30
_B_TOKENS = 4
_PROMPT_TOKENS = 8
#: A gpu holds A or B.
_GPU_BYTES = 2_700_000_000
_POOL_BYTES = 4 << 30


class Policy(StrEnum):
    """Who gives way."""

    #: B loads on the idle node, from its SSD.
    AVAILABILITY = "availability"
    #: B waits for A's end where its checkpoint is in DRAM.
    LOCALITY = "locality"
    #: A stops and begins anew on the idle node, B loads from DRAM.
    PREEMPTION = "preemption"
    #: What the router does by itself: it may move A while it runs, and load B from DRAM.
    MIGRATION = "live migration"


def measure(folder: Path, *, num_rounds: int) -> Report:
    """Let B arrive while A runs, so many times for each policy, in turn."""
    source = make_llama_to_time(
        folder / "started", hidden_size=_HIDDEN_SIZE, num_layers=_NUM_LAYERS, vocab_size=_VOCAB_SIZE
    )
    startups: dict[Policy, list[float]] = {policy: [] for policy in Policy}
    pauses: dict[Policy, list[float]] = {policy: [] for policy in Policy}
    with _scene(folder, source) as scene:
        # Loads from either tier are measured by the first turn, and priced from then on.
        for number in range(num_rounds + 1):
            for policy in Policy:
                startup_s, pause_s = scene.play(policy)
                print(f"{policy}: B after {startup_s:.2f} s, A paused for {pause_s:.2f} s", flush=True)
                if number > 0:
                    startups[policy].append(startup_s)
                    pauses[policy].append(pause_s)
        settings = scene.cluster.settings.model_dump(mode="json", exclude={"home"})
        num_moved = scene.num_moved
    ours = median(startups[Policy.MIGRATION])
    figures = {
        **{f"startup_over_{policy.name.lower()}": ours / median(startups[policy]) for policy in _BASELINES},
        "pause_over_preemption": median(pauses[Policy.MIGRATION]) / median(pauses[Policy.PREEMPTION]),
        "moved_share": num_moved / (num_rounds + 1),
    }
    rows = [
        *(Row(f"startup of B, {policy}", "s", tuple(startups[policy])) for policy in Policy),
        *(Row(f"longest pause of A, {policy}", "s", tuple(pauses[policy])) for policy in Policy),
    ]
    settings |= {"a_tokens": _TOKENS, "a_tokens_before_b": _TOKENS_BEFORE, "b_bytes": _bytes_of(source)}
    return Report(settings=settings, rows=rows, figures=figures)


_BASELINES = (Policy.AVAILABILITY, Policy.LOCALITY, Policy.PREEMPTION)


class _Scene:
    """The cluster with both models, and the ledger that knows their shapes."""

    def __init__(self, cluster: MovingCluster, models: dict[str, ModelInfo]) -> None:
        self.cluster = cluster
        #: Times that the router moved A by itself.
        self.num_moved = 0
        self._models = models
        self._busy, self._idle = sorted(gpu.id for gpu in cluster.live.fleet.gpus())
        self._plays: dict[Policy, Callable[[Job, Job, Reader], None]] = {
            Policy.AVAILABILITY: self._load_elsewhere,
            Policy.LOCALITY: self._wait_for_the_end,
            Policy.PREEMPTION: self._preempt,
        }

    def play(self, policy: Policy) -> tuple[float, float]:
        """Return B's startup, and the longest pause that A's reader saw from then on; seconds."""
        cluster, fleet = self.cluster, self.cluster.live.fleet
        wait_until(lambda: not any(fleet.replicas_on(gpu.id) for gpu in fleet.gpus()), "an idle cluster")
        self._have_checkpoints()
        with self._paused():
            a = cluster.submit(prompt_tokens=_PROMPT_TOKENS, max_tokens=_TOKENS)
            self._place(a, self._busy, StartKind.COLD_DRAM, model=RUNNING)
        a_reader = Reader(cluster.client, a)
        a_reader.wait_for(_TOKENS_BEFORE)
        with self._paused() if policy in self._plays else nullcontext():
            began_s, num_before = time.perf_counter(), len(a_reader.came_s)
            b = cluster.submit(prompt_tokens=_PROMPT_TOKENS, max_tokens=_B_TOKENS, model=_STARTED)
            b_reader = Reader(cluster.client, b)
            if policy in self._plays:
                self._plays[policy](a, b, a_reader)
            for reader in (a_reader, b_reader):
                reader.join()
        if policy is Policy.MIGRATION:
            moves = cluster.client.run(calls.get_list("migrations"))
            self.num_moved += any(each["job_id"] == a.id and each["state"] == "succeeded" for each in moves)
        pauses = [a_reader.pause_s(index) for index in range(num_before, len(a_reader.came_s))]
        return b_reader.came_s[0] - began_s, max(pauses)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Keep the router from what is submitted meanwhile."""
        for model in self._models:
            self.cluster.client.run(calls.pause_queue(model))
        try:
            yield
        finally:
            for model in self._models:
                self.cluster.client.run(calls.resume_queue(model))

    def _load_elsewhere(self, a: Job, b: Job, a_reader: Reader) -> None:
        del a, a_reader
        self._place(b, self._idle, StartKind.COLD_SSD)

    def _wait_for_the_end(self, a: Job, b: Job, a_reader: Reader) -> None:
        replica_id = self.cluster.view(a).replica_id
        a_reader.join()
        wait_until(lambda: not self.cluster.live.jobs.of_gpu(self._busy), "A's place")
        self._place(b, self._busy, StartKind.COLD_DRAM, victim=replica_id)

    def _preempt(self, a: Job, b: Job, a_reader: Reader) -> None:
        del a_reader
        replica_id = self.cluster.view(a).replica_id
        take_back(self.cluster, a)
        self._place(b, self._busy, StartKind.COLD_DRAM, victim=replica_id)
        self._place(a, self._idle, StartKind.COLD_DRAM, model=RUNNING)

    def _place(self, job: Job, gpu: GpuId, start_kind: StartKind, *, model: str = _STARTED, victim: str = "") -> None:
        new = NewReplica(model=self._models[model], gpus=(gpu,), victims=(victim,) if victim else ())
        place(self.cluster, job, new_id("replica"), start_kind=start_kind, new=new)

    def _have_checkpoints(self) -> None:
        """Have B in the DRAM of the busy gpu's node, and nowhere but on the SSD of the other."""
        checkpoint = self._models[_STARTED].checkpoint

        def have(gpu: GpuId, tier: str) -> None:
            self.cluster.client.run(calls.put_placement(checkpoint, gpu.node, tier, pinned=True))

            def is_so() -> bool:
                node = next(node for node in self.cluster.nodes() if node.name == gpu.node)
                return (checkpoint in node.kept_in_dram) if tier == "dram" else (checkpoint not in node.in_dram)

            wait_until(is_so, f"{_STARTED} on {gpu.node} in {tier}")

        have(self._busy, "dram")
        if any(checkpoint in node.in_dram for node in self.cluster.nodes() if node.name == self._idle.node):
            # What a job brought there is not evicted, what was to be there is.
            have(self._idle, "dram")
        have(self._idle, "ssd")
        _forget_pages(self.cluster.settings.home / "nodes")


@contextmanager
def _scene(folder: Path, source: Path) -> Iterator[_Scene]:
    environ = {"SLLM_GPU_MEMORY_BYTES": str(_GPU_BYTES), "SLLM_POOL_BYTES": str(_POOL_BYTES)}
    with open_cluster(environ) as cluster, closing(Database(cluster.settings.ledger_url)) as ledger:
        for model, path in {RUNNING: make_source(folder), _STARTED: source}.items():
            cluster.deploy(model, path, max_jobs=_MAX_JOBS, context=_CONTEXT, keep_alive_s=_KEEP_ALIVE_S)
        with ledger.reading() as session:
            models = {row.name: model_info(row) for row in list_models(session, ready_only=True)}
        yield _Scene(cluster, models)


def _bytes_of(source: Path) -> int:
    return sum(path.stat().st_size for path in source.glob("*.safetensors"))


def _forget_pages(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
