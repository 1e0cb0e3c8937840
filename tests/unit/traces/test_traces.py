"""Traces: what no trace may hold, what a recipe promises, and the way through files."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sllm_tasks.cli.trace import trace as trace_command
from sllm_tasks.errors import TraceError
from sllm_tasks.traces.azure import read_azure
from sllm_tasks.traces.fidelity import check_fidelity, dispersion, gap_cv, ks
from sllm_tasks.traces.files import read_trace, write_trace
from sllm_tasks.traces.generate import Recipe, arrivals, generate
from sllm_tasks.traces.lengths import LENGTHS
from sllm_tasks.traces.records import Trace, TraceRequest

_DATA = Path(__file__).parents[4] / "shared" / "data"
_MODELS = tuple(f"model-{number}" for number in range(8))


def _request(arrival_s: float = 1.0, model: str = "m", output_tokens: int = 5) -> TraceRequest:
    return TraceRequest(arrival_s=arrival_s, model=model, input_tokens=3, output_tokens=output_tokens)


_RECIPE = Recipe(name="t", seed=3, duration_s=86_400.0, rate_per_s=0.5, models=_MODELS, lengths="gsm8k")


def _recipe(**changes: object) -> Recipe:
    return replace(_RECIPE, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("arrival_s", [-0.1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(arrival_s: float) -> None:
    with pytest.raises(TraceError, match="arrival_s"):
        _request(arrival_s)


@pytest.mark.parametrize("output_tokens", [0, -1, 2.5, float("nan")])
def test_a_length_that_is_none_is_refused(output_tokens: int) -> None:
    with pytest.raises(TraceError, match="output_tokens"):
        _request(output_tokens=output_tokens)


def test_requests_are_in_the_order_of_their_arrival() -> None:
    with pytest.raises(TraceError, match="request 2"):
        Trace(name="t", duration_s=5.0, requests=(_request(2.0), _request(1.0)))


def test_a_trace_that_asks_for_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(TraceError, match="other"):
        Trace(name="t", duration_s=5.0, requests=(_request(model="other"),)).check_models(frozenset({"m"}))


def test_a_trace_scaled_to_a_rate_has_that_rate_and_the_same_requests() -> None:
    made = generate(_recipe(duration_s=3_600.0))
    faster = made.at_rate(5.0)
    assert faster.rate_per_s == pytest.approx(5.0)
    assert [request.input_tokens for request in faster.requests] == [r.input_tokens for r in made.requests]


def test_the_same_recipe_makes_the_same_trace() -> None:
    assert generate(_recipe(duration_s=3_600.0)) == generate(_recipe(duration_s=3_600.0))
    assert generate(_recipe(duration_s=3_600.0)) != generate(_recipe(duration_s=3_600.0, seed=4))


def test_another_data_set_leaves_the_arrivals_as_they_are() -> None:
    first, second = (generate(_recipe(duration_s=3_600.0, lengths=name)) for name in ("gsm8k", "sharegpt"))
    assert [(r.arrival_s, r.model) for r in first.requests] == [(r.arrival_s, r.model) for r in second.requests]


@pytest.mark.parametrize("lengths", list(LENGTHS))
@pytest.mark.parametrize("cv", [1.0, 4.0])
def test_a_long_trace_is_what_its_recipe_promises(lengths: str, cv: float) -> None:
    recipe = _recipe(lengths=lengths, cv=cv, duration_s=60_000.0 * cv)
    broken = [check for check in check_fidelity(recipe, generate(recipe)) if not check.holds]
    assert broken == []


def test_the_papers_bursts_have_its_coefficient_of_variation() -> None:
    recipe = _recipe(cv=8.0, duration_s=1_000_000.0)
    broken = [check for check in check_fidelity(recipe, generate(recipe)) if not check.holds]
    assert broken == []
    assert gap_cv(generate(recipe)) == pytest.approx(8.0, rel=0.1)


def test_clients_that_are_off_make_arrivals_burstier() -> None:
    steady, _ = arrivals(_recipe(cv=1.0))
    switched, _ = arrivals(_recipe(cv=1.0, active_share=0.3, group_size=4))
    assert dispersion(switched, 86_400.0, 60.0) > 1.5 * dispersion(steady, 86_400.0, 60.0)
    assert len(switched) == len(steady)


def test_a_day_has_a_peak_and_a_trough() -> None:
    times_s, _ = arrivals(_recipe(cv=1.0, swing=0.6))
    hours, _ = np.histogram(times_s, bins=24)
    assert hours[12:17].sum() > 2 * hours[:5].sum()


def test_recipes_that_cannot_be_are_refused() -> None:
    for changes in ({"rate_per_s": 0.0}, {"duration_s": float("nan")}, {"cv": -1.0}, {"models": ()}, {"swing": 1.0}):
        with pytest.raises(TraceError):
            _recipe(**changes)
    for changes in ({"seed": -1}, {"zipf": float("nan")}, {"cv": 1e-200}, {"cv": 1e200}, {"duration_s": 1e12}):
        with pytest.raises(TraceError, match=next(iter(changes))):
            _recipe(**changes)
    with pytest.raises(TraceError, match="lengths"):
        _recipe(lengths="none")


@pytest.mark.parametrize("rate_per_s", [1e-308, 0.0001, 1e7, 1e308])
def test_a_recipe_makes_a_request_at_least_and_no_more_than_memory_holds(rate_per_s: float) -> None:
    with pytest.raises(TraceError, match="requests"):
        _recipe(rate_per_s=rate_per_s, duration_s=60.0)


def test_a_trace_of_one_request_is_compared_with_its_recipe() -> None:
    recipe = _recipe(rate_per_s=1.0, duration_s=1.0)
    assert len(generate(recipe).requests) == 1
    assert check_fidelity(recipe, generate(recipe))


def test_pairs_fit_the_context_and_keep_the_mean() -> None:
    data = LENGTHS["sharegpt"]
    inputs, outputs = data.draw(np.random.default_rng(1), 5_000)
    assert (inputs + outputs).max() <= data.context
    assert inputs.mean() == pytest.approx(606.5, rel=0.05)
    assert outputs.mean() == pytest.approx(395.6, rel=0.05)


@pytest.mark.parametrize(("name", "file"), [("azure-conv", "conv"), ("azure-code", "code")])
def test_the_lengths_are_those_of_the_public_files(name: str, file: str) -> None:
    path = _DATA / f"azure_llm_2023_{file}.csv"
    if not path.exists():
        # Not a skip: the quantiles are tested against their own draws above, with or without the file.
        return
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    for column, shape in (("ContextTokens", LENGTHS[name].input), ("GeneratedTokens", LENGTHS[name].output)):
        lengths = np.array([float(row[column]) for row in rows])
        assert ks(lengths, shape) <= 0.05
        assert shape.mean() == pytest.approx(lengths.mean(), rel=0.05)


def test_a_trace_comes_back_from_its_file(tmp_path: Path) -> None:
    made = generate(_recipe(duration_s=600.0))
    write_trace(made, tmp_path / "t.jsonl")
    assert read_trace(tmp_path / "t.jsonl") == made


@pytest.mark.parametrize(
    "line",
    [
        '{"arrival_s": NaN, "model": "m", "input_tokens": 1, "output_tokens": 1}',
        '{"arrival_s": -1, "model": "m", "input_tokens": 1, "output_tokens": 1}',
        '{"arrival_s": "1", "model": "m", "input_tokens": 1, "output_tokens": 1}',
        pytest.param(f'{{"arrival_s": {10**400}, "model": "m", "input_tokens": 1, "output_tokens": 1}}', id="digits"),
        '{"arrival_s": 1, "model": "m", "input_tokens": 1}',
        "[]",
        "{",
        pytest.param("[" * 100_000, id="depth"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"name": "t", "duration_s": 5}}\n{line}\n')
    with pytest.raises(TraceError, match="line 2"):
        read_trace(path)


def test_azure_files_are_read_in_seconds_since_their_first_request(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:04.5,3180,8\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:18:03.9799600,7,9\n"
    )
    made = read_azure(path, ("a", "b"))
    assert [request.arrival_s for request in made.requests] == pytest.approx([0.0, 0.52004, 60.0])
    assert [request.input_tokens for request in made.requests] == [4808, 3180, 7]


def test_a_damaged_azure_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    for line in ("yesterday,1,1", "2023-11-16 18:17:04,0,1", "2023-11-16 18:17:04,1,-1", "2023-11-16 18:17:04,1"):
        path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{line}\n")
        with pytest.raises(TraceError, match="line 2"):
            read_azure(path, ("a",))
    path.write_text("a,b\n1,2\n")
    with pytest.raises(TraceError, match="columns"):
        read_azure(path, ("a",))


def test_an_azure_file_is_given_to_models_by_numbers_that_can_be_drawn_by(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04.5,3180,8\n")
    with pytest.raises(TraceError, match="zipf"):
        read_azure(path, ("a", "b"), zipf=float("nan"))
    with pytest.raises(TraceError, match="seed"):
        read_azure(path, ("a", "b"), seed=-1)


@pytest.mark.parametrize("options", [["--rate", "0.0001"], ["--seed", "-1"], ["--cv", "1e-200"]])
def test_a_trace_that_cannot_be_made_is_refused_before_anything_is_written(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "made.jsonl"
    done = CliRunner().invoke(trace_command, ["generate", str(path), "--model", "a", "--duration", "60", *options])
    assert isinstance(done.exception, TraceError)
    assert not path.exists()


def test_the_command_writes_a_trace_and_tells_how_close_it_came(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    options = ["--model", "a", "--model", "b", "--duration", "3600", "--cv", "1", "--rate", "1"]
    done = CliRunner().invoke(trace_command, ["generate", str(path), *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert "gap cv" in done.output
    assert read_trace(path).models == {"a", "b"}
