"""Models with two sets of rotary factors use one of them for all jobs of a load: no job's tokens hang on another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config, PhimoeConfig, PreTrainedConfig

from sllm_tasks.engines.base import EngineLimits, EngineRequest, EngineToken
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import Exactness, SamplingParams

ORIGINAL_CONTEXT = 32
MAX_TOKENS = 16
SHORT = tuple((index * 37 + 11) % 299 + 1 for index in range(10))
LONG = tuple((index * 53 + 7) % 299 + 1 for index in range(40))

_SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "original_max_position_embeddings": ORIGINAL_CONTEXT,
    "bos_token_id": None, "pad_token_id": None, "eos_token_id": 0,
}  # fmt: skip
_ROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": ORIGINAL_CONTEXT,
    "short_factor": [1.0] * 8, "long_factor": [1.0 + 4 * index for index in range(8)],
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "phi3": Phi3Config(**_SIZES, rope_parameters=_ROPE),
    "phimoe": PhimoeConfig(
        **_SIZES, num_local_experts=4, rope_parameters={**_ROPE, "short_mscale": 1.0, "long_mscale": 1.8}
    ),
}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("longrope") / request.param
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    model.save_pretrained(path)
    return path


def loaded(path: Path, context: int, engine_class: type[StepLoopEngine] = StepLoopEngine) -> StepLoopEngine:
    engine = engine_class()
    engine.load(path, ("cpu",), EngineLimits(max_jobs=3, context=context))
    return engine


def decoded(engine: StepLoopEngine, *prompts: tuple[int, ...]) -> list[tuple[int, ...]]:
    """What each prompt is answered with, all of them running together."""
    params = SamplingParams(max_tokens=MAX_TOKENS, seed=0, temperature=0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.submit(EngineRequest(job_id=str(number), token_ids=prompt, params=params))
    tokens: list[EngineToken] = []
    while engine.has_work:
        tokens += [event for event in engine.poll() if isinstance(event, EngineToken)]
    return [tuple(token.token_id for token in tokens if token.job_id == str(n)) for n in range(len(prompts))]


def generated(path: Path, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """What transformers makes of it."""
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    found = model.generate(
        torch.tensor([prompt]), max_new_tokens=MAX_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return tuple(found[0, len(prompt) :].tolist())


@pytest.mark.parametrize("engine_class", [StepLoopEngine, ExactEngine])
def test_a_job_within_the_original_context_gets_the_same_beside_one_beyond_it(
    checkpoint: Path, engine_class: type[StepLoopEngine]
) -> None:
    alone = decoded(loaded(checkpoint, 120, engine_class), SHORT)
    assert decoded(loaded(checkpoint, 120, engine_class), LONG, SHORT)[1:] == alone


def test_a_job_that_grows_beyond_the_original_context_gets_the_same_when_it_is_resumed_there(checkpoint: Path) -> None:
    across = (SHORT * 3)[: ORIGINAL_CONTEXT - MAX_TOKENS // 2]
    (whole,) = decoded(loaded(checkpoint, 120), across)
    resumed = decoded(loaded(checkpoint, 120), across + whole[:-1])[0]
    assert resumed[0] == whole[-1]


@pytest.mark.parametrize(("context", "prompt"), [(ORIGINAL_CONTEXT, SHORT), (120, LONG)], ids=["short", "long"])
def test_the_context_of_the_replica_decides_which_factors_those_are(
    checkpoint: Path, context: int, prompt: tuple[int, ...]
) -> None:
    assert decoded(loaded(checkpoint, context), prompt) == [generated(checkpoint, prompt)]


def test_the_factors_of_one_load_are_not_those_of_the_next(checkpoint: Path) -> None:
    before = decoded(loaded(checkpoint, ORIGINAL_CONTEXT), SHORT)
    assert decoded(loaded(checkpoint, 120), SHORT) != before
    assert decoded(loaded(checkpoint, ORIGINAL_CONTEXT), SHORT) == before


def test_level_exact_is_kept(checkpoint: Path) -> None:
    engine = loaded(checkpoint, 120, ExactEngine)
    assert engine.equality_class().exactness is Exactness.EXACT, engine.equality_class()
