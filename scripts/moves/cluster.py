"""A live cluster of two nodes that both have a replica of one model, and jobs on it whose readers note the time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from scripts.live_cluster import LiveCluster
from scripts.moves.checkpoints import make_llama_to_time
from scripts.waiting import wait_until
from sllm_tasks.client import Client, Job, calls
from sllm_tasks.client.records import Token
from sllm_tasks.cluster import NodeInfo, ReplicaState
from sllm_tasks.config import Settings, load_settings
from sllm_tasks.livestate.jobs import LiveJob
from sllm_tasks.services import Services

MODEL = "moved"
#: A job that lasts until it is cancelled.
_LONG = 400
#: Of the model that jobs are decoded by: 25 million parameters.
_HIDDEN_SIZE, _NUM_LAYERS, _VOCAB_SIZE = 512, 8, 512


class Reader:
    """Follows a job's tokens as a user does, in a thread of its own."""

    def __init__(self, client: Client, job: Job) -> None:
        self.job = job
        #: When each token came, by its index; on this process's clock.
        self.came_s: list[float] = []
        self._client = client
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def pause_s(self, index: int) -> float:
        """Time between a token and the one before it."""
        return self.came_s[index] - self.came_s[index - 1]

    def wait_for(self, num_tokens: int) -> None:
        """Wait until so many tokens have come."""
        wait_until(lambda: len(self.came_s) >= num_tokens, f"token {num_tokens} of {self.job.id}")

    def join(self) -> None:
        """Wait for the job's last event."""
        self._thread.join()

    def _run(self) -> None:
        for item in self._client.stream(self.job.id):
            # An attempt that begins anew may show tokens once more; what counts is when each was first seen.
            if isinstance(item, Token) and item.index == len(self.came_s):
                self.came_s.append(time.perf_counter())


class MovingCluster:
    """The cluster with everything that opens it."""

    def __init__(self, cluster: LiveCluster, client: Client, services: Services, redis: Redis) -> None:
        self.cluster = cluster
        self.client = client
        self.services = services
        self.live = services.live
        self.redis = redis
        self._chosen = random.Random(0)

    @property
    def settings(self) -> Settings:
        """What it runs with."""
        return self.services.settings

    def submit(self, *, prompt_tokens: int, max_tokens: int, model: str = MODEL) -> Job:
        """Submit a job with a prompt of random digits, each of which is a token; every other job is sampled."""
        seed = self._chosen.randrange(1 << 30)
        prompt = "".join(self._chosen.choices("0123456789", k=prompt_tokens))
        return self.client.submit(
            model=model,
            prompt=prompt,
            max_tokens=max_tokens,
            seed=seed,
            temperature=0.9 * (seed % 2),
            ignore_eos=True,
        )

    def view(self, job: Job) -> LiveJob:
        """How a job that has not ended stands."""
        view = self.live.jobs.view(job.id)
        if view is None:
            raise SystemExit(f"{job.id} is gone")
        return view

    def token_ms(self, job: Job) -> list[int]:
        """Cluster times at which a job's tokens were written."""
        found: Any = self.redis.xrange(f"sllm:job:{job.id}:events")
        return [int(id_.split(b"-")[0]) for id_, fields in found if fields[b"kind"] == b"token"]

    def nodes(self) -> list[NodeInfo]:
        """Nodes that live."""
        return self.live.fleet.nodes(self.live.now_ms())

    def deploy(self, model: str, source: Path, *, max_jobs: int, context: int, keep_alive_s: float) -> None:
        """Deploy a model, and wait until every node has its checkpoint."""
        operation = self.client.deploy(
            model, str(source), max_jobs=max_jobs, context=context, keep_alive_s=keep_alive_s
        )
        self.client.wait_for(operation, timeout=300)
        checkpoint = self.client.run(calls.get_model(model))["checkpoint"]

        def is_everywhere() -> bool:
            nodes = self.nodes()
            return len(nodes) == self.settings.nodes and all(checkpoint in node.checkpoints for node in nodes)

        wait_until(is_everywhere, f"{model} on all nodes", timeout_s=300)

    def load_both(self) -> None:
        """Have a replica on either node: a job makes the first, its move the second."""
        job = self.submit(prompt_tokens=8, max_tokens=_LONG)
        wait_until(lambda: self.view(job).num_tokens > 0, "the first replica")
        self.client.run(calls.start_migration(job.id))
        wait_until(lambda: self._num_ready() == len(self.live.fleet.gpus()), "the second replica")
        job.cancel()
        wait_until(
            lambda: all(not self.live.jobs.of_gpu(gpu.id) for gpu in self.live.fleet.gpus()), "the end of that job"
        )

    def _num_ready(self) -> int:
        fleet = self.live.fleet
        orders = [fleet.replica(id_) for gpu in fleet.gpus() for id_ in fleet.replicas_on(gpu.id)]
        return sum(order is not None and order.replica.state is ReplicaState.READY for order in orders)


@contextmanager
def moving_cluster(folder: Path, *, max_jobs: int, context: int) -> Iterator[MovingCluster]:
    """Start it, with the product's defaults; `context` is that of the longest job, prompt and output."""
    with open_cluster({}) as moving:
        moving.deploy(MODEL, make_source(folder), max_jobs=max_jobs, context=context, keep_alive_s=3600)
        moving.load_both()
        yield moving


def make_source(folder: Path) -> Path:
    """Write the model that jobs are decoded by."""
    return make_llama_to_time(
        folder / "source", hidden_size=_HIDDEN_SIZE, num_layers=_NUM_LAYERS, vocab_size=_VOCAB_SIZE
    )


@contextmanager
def open_cluster(environ: Mapping[str, str]) -> Iterator[MovingCluster]:
    """Start a cluster without models."""
    with ExitStack() as stack:
        cluster = stack.enter_context(LiveCluster(environ))
        client = stack.enter_context(Client(cluster.url, cluster.api_key))
        settings, _ = load_settings(environ={**environ, "SLLM_HOME": str(cluster.home)})
        services = Services(settings, "bench")
        stack.callback(services.close)
        redis = stack.enter_context(Redis.from_url(settings.live_url))
        yield MovingCluster(cluster, client, services, redis)
