"""Baselines that know nothing of where checkpoints are: a warm replica, else any free gpu."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sllm_tasks.estimators.base import Estimates
from sllm_tasks.policy.decision import Assignment
from sllm_tasks.policy.view import ClusterView, WaitingJob
from sllm_tasks.simulation.links import Discipline
from sllm_tasks.simulation.policies import whole_gpus
from sllm_tasks.simulation.system import Loader, Order, System

#: Safetensors reached 0.22 to 0.27 of 12 GB/s in the paper's figure 6b, which agrees with its 48 s for LLaMA-2-70B.
_SAFETENSORS_BYTES_PER_S: Final = 3.0e9
#: KServe's first token took 128 s, 114 of them the download, and a load of OPT-6.7B by safetensors takes 4.4 s: the
#: rest is the pod.
_POD_S: Final = 9.6
#: Ray keeps its workers, so a replica's start is the model's construction.
_RAY_START_S: Final = 0.5
#: ServerlessLLM's mean start of OPT-6.7B, 0.8 s, less 13.3 GB at 25 GB/s.
SERVERLESSLLM_START_S: Final = 0.25


class RandomGpu:
    """Places by a coin."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a coin, not a key

    def decide(self, view: ClusterView, job: WaitingJob, estimates: Estimates) -> Order:  # noqa: ARG002
        """A warm replica, else a free place on a random node."""
        if (warm := whole_gpus.warm(view, job)) is not None:
            return warm
        model = view.model_of(job)
        found = whole_gpus.places(view, model)
        if not found:
            return whole_gpus.wait("no gpu is free")
        # Whoever has a free gpu is taken before somebody idle is put out.
        found = [place for place in found if not place.victims] or found
        place = self._random.choice(found)
        path = whole_gpus.load_path(view, place, model)
        return whole_gpus.order(Assignment(path=path, gpus=place.gpus, victims=place.victims))

    def drained(self, view: ClusterView, job: WaitingJob) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing makes room."""
        return ()

    def opened(self, view: ClusterView, jobs: Sequence[WaitingJob]) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing was closed."""
        return ()


SERVERLESS: Final = System(
    name="serverless",
    title="Serverless (random free gpu)",
    make_policy=RandomGpu,
    loader=Loader(discipline=Discipline.FCFS, start_s=SERVERLESSLLM_START_S),
    keep_alive_loads=1.0,
)
RAY_SERVE: Final = System(
    name="ray-serve",
    title="Ray Serve",
    make_policy=RandomGpu,
    loader=Loader(
        discipline=Discipline.SHARING,
        start_s=_RAY_START_S,
        max_bytes_per_s=_SAFETENSORS_BYTES_PER_S,
        keeps_in_dram=False,
        keeps_on_ssd=False,
        downloads_first=True,
    ),
    keep_alive_loads=1.0,
    has_store=False,
)
RAY_SERVE_CACHE: Final = replace(
    RAY_SERVE,
    name="ray-serve-cache",
    title="Ray Serve with cache (SSD, LRU)",
    loader=replace(RAY_SERVE.loader, keeps_on_ssd=True),
)
KSERVE: Final = replace(
    RAY_SERVE,
    name="kserve",
    title="KServe (download, then load)",
    loader=replace(RAY_SERVE.loader, start_s=_POD_S),
)
