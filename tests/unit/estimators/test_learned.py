"""Facts in, estimates out: what each of them teaches, and that their order and their number are all that counts."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from statistics import fmean

import pytest

from sllm_tasks.cluster import Tier
from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.estimators.facts import ArrivalFact, Fact, JobFact, LoadFact, MigrationFact, StartFact
from sllm_tasks.estimators.learned import LearnedEstimates

_GB = 10**9
_TOTAL = Estimate(seconds=1.0, low_s=0.9, high_s=1.2)


def load(node: str = "a", tier: Tier = Tier.SSD, gb: int = 10, seconds: float = 5.0, *, to_gpu: bool = True) -> Fact:
    return LoadFact(node=node, tier=tier, num_bytes=gb * _GB, seconds=seconds, to_gpu=to_gpu)


def job(model: str = "m", prompt: int = 100, output: int = 100, **times: float) -> JobFact:
    return JobFact(
        model=model,
        prompt_tokens=prompt,
        completion_tokens=output,
        first_token_s=times.get("first_token_s"),
        token_s=times.get("token_s"),
        batch=int(times.get("batch", 1)),
    )


def random_facts(seed: int, num: int) -> list[Fact]:
    random = Random(seed)
    facts: list[Fact] = []
    for index in range(num):
        model, size = random.choice("mno"), random.randint(1, 60)
        facts.append(
            random.choice(
                [
                    load(
                        random.choice("ab"), random.choice([Tier.SSD, Tier.DRAM]), size, size * random.uniform(0.1, 0.3)
                    ),
                    job(model, size, size, first_token_s=random.random(), token_s=random.random(), batch=size % 8 + 1),
                    ArrivalFact(model=model, at_s=index + random.random()),
                    MigrationFact(model=model, batch=size % 8 + 1, num_tokens=size, seconds=random.random()),
                    StartFact(path="load_ssd", total=_TOTAL, actual_s=random.uniform(0.5, 4)),
                ]
            )
        )
    return facts


def answers(estimates: LearnedEstimates) -> list[object]:
    return [
        answer
        for model in "mnop"
        for answer in (
            estimates.loading("a", Tier.SSD, 10 * _GB, queued_bytes=_GB),
            estimates.loading("b", Tier.DRAM, 10 * _GB),
            estimates.loading("c", Tier.SSD, 10 * _GB),
            estimates.first_token(model, 77),
            estimates.start("load_ssd", _TOTAL),
            estimates.token_time(model, 3),
            estimates.migration(model, 2, 300),
            estimates.tokens_left(model, 10, 200),
            estimates.wanted(model, 60.0, 3.0),
        )
    ]


@pytest.mark.parametrize("seed", range(5))
def test_learning_fact_by_fact_and_all_at_once_is_the_same(seed: int) -> None:
    facts = random_facts(seed, 300)
    one_by_one = LearnedEstimates(facts[:100])
    for fact in facts[100:]:
        answers(one_by_one)
        one_by_one.learn(fact)
    assert answers(one_by_one) == answers(LearnedEstimates(facts))


def test_what_waits_before_a_load_passes_at_the_same_rate() -> None:
    estimates = LearnedEstimates(load(gb=gb, seconds=0.5 + gb / 2) for gb in (4, 8, 16, 32, 6, 12, 24, 48, 5, 10))
    assert estimates.loading("a", Tier.SSD, 10 * _GB).seconds == pytest.approx(5.5)
    assert estimates.loading("a", Tier.SSD, 10 * _GB, queued_bytes=20 * _GB).seconds == pytest.approx(15.5)


def test_a_node_that_has_loaded_nothing_is_taken_for_one_of_the_others() -> None:
    estimates = LearnedEstimates(load("a", seconds=7.0) for _ in range(4))
    assert estimates.loading("b", Tier.SSD, 10 * _GB).seconds == pytest.approx(7.0)


def test_what_a_calibration_found_counts_until_something_is_loaded() -> None:
    estimates = LearnedEstimates([load("a", seconds=7.0), load("b", seconds=3.0, to_gpu=False)])
    assert estimates.loading("b", Tier.SSD, 10 * _GB).seconds == pytest.approx(3.0)
    estimates.learn(load("b", seconds=4.0))
    assert estimates.loading("b", Tier.SSD, 10 * _GB).seconds == pytest.approx(4.0)


def test_tiers_are_learned_apart() -> None:
    estimates = LearnedEstimates([load(tier=Tier.SSD, seconds=5.0), load(tier=Tier.DRAM, seconds=0.5)])
    assert estimates.loading("a", Tier.DRAM, 10 * _GB).seconds == pytest.approx(0.5)


def test_nodes_that_have_loaded_a_few_times_have_the_interval_of_all() -> None:
    random, estimates, held = Random(3), LearnedEstimates(), list[bool]()
    for node in map(str, range(300)):
        for number in range(9):
            size = random.randint(1, 60)
            told = estimates.loading(node, Tier.SSD, size * _GB)
            seconds = (0.1 + size / 2) * random.lognormvariate(0, 0.3)
            # Its own first loads are too few for a line, those of the first nodes for an interval.
            if number >= 4 and int(node) >= 3:
                held.append(told.low_s <= seconds <= told.high_s)
            estimates.learn(load(node, gb=size, seconds=seconds))
    assert 0.75 <= fmean(held) <= 0.85


def test_the_interval_of_a_start_is_what_four_in_five_starts_of_its_kind_came_in() -> None:
    random, inside = Random(7), 0
    estimates = LearnedEstimates()
    for index in range(2_000):
        seconds = random.uniform(0.1, 10)
        # Much less sure than the parts are, and mostly late.
        total = Estimate(seconds=seconds, low_s=0.95 * seconds, high_s=1.1 * seconds)
        actual_s = seconds * random.lognormvariate(0.3, 0.5)
        told = estimates.start("load_ssd", total)
        assert told.seconds == total.seconds
        inside += index >= 100 and told.low_s <= actual_s <= told.high_s
        estimates.learn(StartFact(path="load_ssd", total=total, actual_s=actual_s))
    assert inside / 1_900 == pytest.approx(0.8, abs=0.04)


def test_the_interval_of_a_start_follows_a_machine_that_has_become_quiet() -> None:
    late = [StartFact(path="load_ssd", total=_TOTAL, actual_s=_TOTAL.seconds + 50)] * 64
    estimates = LearnedEstimates(late)
    assert estimates.start("load_ssd", _TOTAL).high_s == pytest.approx(_TOTAL.seconds + 50)
    for _ in range(29):
        estimates.learn(StartFact(path="load_ssd", total=_TOTAL, actual_s=_TOTAL.seconds + 0.01))
    assert estimates.start("load_ssd", _TOTAL).high_s == pytest.approx(_TOTAL.seconds + 0.01)


def test_a_way_to_start_with_few_starts_of_its_own_is_as_unsure_as_all_together() -> None:
    estimates = LearnedEstimates()
    assert estimates.start("load_ssd", _TOTAL) == _TOTAL
    for path in ["load_dram"] * 9 + ["load_ssd"]:
        estimates.learn(StartFact(path=path, total=_TOTAL, actual_s=_TOTAL.seconds + 50))
    assert estimates.start("load_ssd", _TOTAL).high_s == pytest.approx(_TOTAL.seconds + 50)
    for _ in range(29):
        estimates.learn(StartFact(path="load_ssd", total=_TOTAL, actual_s=_TOTAL.seconds + 0.01))
    estimates.learn(StartFact(path="load_dram", total=_TOTAL, actual_s=_TOTAL.seconds + 50))
    assert estimates.start("load_ssd", _TOTAL).high_s == pytest.approx(_TOTAL.seconds + 0.01)
    assert estimates.start("load_dram", _TOTAL).high_s == pytest.approx(_TOTAL.seconds + 50)


def test_punctual_starts_of_other_kinds_make_no_start_surer_than_its_parts() -> None:
    punctual = StartFact(path="warm", total=_TOTAL, actual_s=_TOTAL.seconds + 0.01)
    estimates = LearnedEstimates([punctual] * 29)
    assert estimates.start("load_ssd", _TOTAL) == _TOTAL
    assert estimates.start("warm", _TOTAL).high_s == pytest.approx(_TOTAL.seconds + 0.01)


def test_a_start_whose_time_was_known_teaches_nothing() -> None:
    known = StartFact(path="warm", total=Estimate.exactly(1.0), actual_s=3.0)
    assert LearnedEstimates([known] * 20).start("warm", _TOTAL) == _TOTAL


def test_a_larger_batch_takes_longer_for_each_token() -> None:
    estimates = LearnedEstimates(job(token_s=0.02 + 0.01 * batch, batch=batch) for batch in range(1, 17))
    assert estimates.token_time("m", 8).seconds == pytest.approx(0.1)


def test_a_migration_costs_a_prefill_until_one_was_measured() -> None:
    estimates = LearnedEstimates(job(prompt=prompt, first_token_s=prompt / 1000) for prompt in range(100, 1000, 50))
    assert estimates.migration("m", 1, 500).seconds == pytest.approx(0.5)
    estimates.learn(MigrationFact(model="m", batch=1, num_tokens=500, seconds=2.0))
    assert estimates.migration("m", 1, 500).seconds == pytest.approx(2.0)
    assert estimates.migration("m", 8, 500).seconds == pytest.approx(0.5)


def test_outputs_that_became_longer_tell_what_is_left() -> None:
    estimates = LearnedEstimates(job(output=output) for output in (10, 20, 100, 200))
    assert estimates.tokens_left("m", 50, 1_000) == pytest.approx(100)
    assert estimates.tokens_left("m", 50, 60) == pytest.approx(10)
    assert estimates.tokens_left("m", 500, 600) == pytest.approx(50)
    assert estimates.tokens_left("unknown", 0, 64) == pytest.approx(32)


def test_a_model_that_is_asked_for_every_second_is_wanted_soon_and_less_the_longer_it_is_not() -> None:
    estimates = LearnedEstimates(ArrivalFact(model="m", at_s=float(second)) for second in range(60))
    probabilities = [estimates.wanted("m", 10.0, idle_s) for idle_s in (0.0, 5.0, 60.0, 600.0)]
    assert probabilities[0] > 0.95
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[-1] < 0.05


def test_of_models_that_nobody_knows_the_longer_idle_one_is_less_wanted() -> None:
    estimates = LearnedEstimates()
    assert estimates.wanted("m", 60.0, 10.0) > estimates.wanted("m", 60.0, 20.0)


def test_arrivals_may_come_in_any_order() -> None:
    times = [float(second) for second in range(50)]
    shuffled = Random(0).sample(times, len(times))
    in_order = LearnedEstimates(ArrivalFact(model="m", at_s=at_s) for at_s in times)
    other = LearnedEstimates(ArrivalFact(model="m", at_s=at_s) for at_s in shuffled)
    assert in_order.wanted("m", 5.0, 1.0) == other.wanted("m", 5.0, 1.0)


def test_times_one_after_the_other_have_independent_errors() -> None:
    both = Estimate(seconds=3.0, low_s=0.0, high_s=6.0) + Estimate(seconds=4.0, low_s=0.0, high_s=8.0)
    assert (both.seconds, both.low_s, both.high_s) == (7.0, 2.0, 12.0)


def test_an_estimate_is_a_time_inside_of_its_interval() -> None:
    with pytest.raises(ValueError, match="not an estimate"):
        Estimate(seconds=1.0, low_s=2.0, high_s=3.0)


def test_a_slow_node_does_not_make_a_fast_one_slow() -> None:
    estimates = LearnedEstimates()
    for _ in range(6):
        for node, token_s in (("old", 0.1), ("new", 0.01)):
            estimates.learn(replace(job(prompt=100, first_token_s=10 * token_s, token_s=token_s, batch=1), node=node))
    assert estimates.token_time("m", 1, node="old").seconds == pytest.approx(0.1)
    assert estimates.token_time("m", 1, node="new").seconds == pytest.approx(0.01)
    assert estimates.first_token("m", 100, node="old").seconds == pytest.approx(1.0)
    # Where the model has not run yet it is as fast as anywhere.
    assert estimates.token_time("m", 1, node="other") == estimates.token_time("m", 1)
