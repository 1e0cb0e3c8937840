"""Two starts in a fresh process: `python -m scripts.two_starts CONTESTANT FOLDER`; prints their times as JSON.

A start is a load of what is in memory already, and the first token behind a prompt. FOLDER has the checkpoint that
`bench_start` makes.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from transformers import AutoModelForCausalLM

from loaders import checkpoint
from loaders.memory.pool import Pool
from loaders.prefetch import prefetch
from loaders.rehearsal import Rehearsal
from loaders.templates import Template, Templates
from scripts.load.checkpoints import make
from scripts.load.contestants import Files
from sllm_tasks.engines.base import EngineLimits, EngineRequest, EngineToken
from sllm_tasks.engines.known_shapes import rehearse_shapes
from sllm_tasks.engines.registry import create_engine, preload_engine
from sllm_tasks.jobs import SamplingParams

CHECKPOINT = "opt-1.3b"
_POOL_BYTES = 3 << 30
_LIMITS = EngineLimits(max_jobs=4, context=512)
_PROMPT = tuple(range(5, 37))


class Starter(Protocol):
    """Somebody's model, from one start to the next."""

    def load(self) -> None:
        """Make the model ready for a prompt."""

    def first_token(self) -> int:
        """Read the prompt and choose greedily."""

    def unload(self) -> None:
        """Let go of the model."""


class _Ours:
    """An engine over the node's pool, with all that a worker has before its first job."""

    def __init__(self, files: Files, engine: str) -> None:
        self._name, self._path = engine, files.converted
        preload_engine(engine)
        templates = Templates()
        Rehearsal(templates, _run_without_weights).look([files.converted])
        pool = Pool.open(files.pool, files.pool_bytes)
        pool.prepare()
        prefetch(files.converted, pool)
        self._load = partial(checkpoint.load, pool=pool, templates=templates)
        self._engine = create_engine(engine)

    def load(self) -> None:
        self._engine = create_engine(self._name)
        self._engine.load(self._path, ("cpu",), _LIMITS, self._load)

    def first_token(self) -> int:
        params = SamplingParams(max_tokens=2, seed=0, ignore_eos=True)
        self._engine.submit(EngineRequest(job_id="a", token_ids=_PROMPT, params=params))
        while True:
            for event in self._engine.poll():
                if not isinstance(event, EngineToken):
                    raise RuntimeError(f"{self._name}: {event}")
                return event.token_id

    def unload(self) -> None:
        self._engine.unload()


class _Transformers:
    """Files that are in the page cache, which safetensors maps."""

    def __init__(self, files: Files) -> None:
        with files.safetensors.open("rb") as file:
            while file.read(16 << 20):
                pass
        self._directory = files.directory
        self._model: torch.nn.Module | None = None

    def load(self) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(self._directory, dtype=torch.bfloat16)

    def first_token(self) -> int:
        found = self._model.generate(torch.tensor([_PROMPT]), max_new_tokens=1, do_sample=False)  # type: ignore[union-attr,operator]
        return int(found[0, -1])

    def unload(self) -> None:
        self._model = None
        gc.collect()


def _run_without_weights(template: Template) -> None:
    rehearse_shapes(template.without_memory(), torch.device("cpu"))


CONTESTANTS: Mapping[str, Callable[[Files], Starter]] = {
    "ours": lambda files: _Ours(files, "steploop"),
    "ours, exact": lambda files: _Ours(files, "exact"),
    "transformers": _Transformers,
}


def files_of(folder: Path) -> Files:
    """Make the checkpoint, unless it is there."""
    made = make(CHECKPOINT, folder, peers=False, pool_bytes=_POOL_BYTES, device="cpu")
    # Not the one of a bench_load that may run as well.
    return replace(made, pool=made.pool.with_name("sllm-bench-start"))


def _start(starter: Starter) -> tuple[float, float, int]:
    began_s = time.monotonic()
    starter.load()
    loaded_s = time.monotonic()
    token_id = starter.first_token()
    ended_s = time.monotonic()
    starter.unload()
    return loaded_s - began_s, ended_s - loaded_s, token_id


def main(arguments: Sequence[str]) -> int:
    """Start twice; fails if another token comes the second time."""
    contestant, folder = arguments
    starter = CONTESTANTS[contestant](files_of(Path(folder)))
    gc.collect()
    gc.freeze()
    starts = [_start(starter) for _ in range(2)]
    if len({token_id for _, _, token_id in starts}) > 1:
        raise RuntimeError(f"{contestant}: another first token at the second start: {starts}")
    print(json.dumps([(load_s, token_s) for load_s, token_s, _ in starts]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
