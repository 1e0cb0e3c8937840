"""What happens in a simulation, by rules that hold for every system, and by those that tell systems apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllm_tasks.errors import SimulationError, TraceError
from sllm_tasks.estimators.base import Estimates
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, WaitingJob
from sllm_tasks.simulation.fleet import SimOutcome
from sllm_tasks.simulation.hardware import A40, Hardware, NodeHardware, opt_models
from sllm_tasks.simulation.links import Discipline
from sllm_tasks.simulation.load_orders import compare_orders
from sllm_tasks.simulation.moving import rounds
from sllm_tasks.simulation.placement import Placement, place
from sllm_tasks.simulation.policies.ours import Ours
from sllm_tasks.simulation.policies.registry import SYSTEMS, system_of
from sllm_tasks.simulation.presets import cells_of, paper_scenario
from sllm_tasks.simulation.results import Samples
from sllm_tasks.simulation.run import Simulation
from sllm_tasks.simulation.scenario import NodeFailure
from sllm_tasks.simulation.system import Order
from sllm_tasks.traces.records import Trace
from tests.unit.simulation.scenes import finished, node, play, request, scene

_SSD_S = 13.317 / 6 + 0.25
_DRAM_S = 13.317 / 25 + 0.25


@pytest.mark.parametrize("system", ["ours", "serverlessllm", "shepherd", "serverless"])
def test_a_first_start_takes_what_the_disk_takes(system: str) -> None:
    (job,) = play(scene(request(0.0)), system).jobs
    assert job.startup_s == pytest.approx(_SSD_S, abs=0.01)


def test_a_warm_replica_starts_at_once() -> None:
    first, second = play(scene(request(0.0), request(20.0)), "ours").jobs
    assert first.startup_s > 1
    assert second.startup_s == 0
    assert second.path == "warm"


def test_prompts_that_take_turns_have_their_first_tokens_one_after_the_other() -> None:
    requests = [request(0.0, input_tokens=tokens, output_tokens=1) for tokens in (1000, 500, 100)]
    scenario = replace(scene(*requests, max_jobs=3), timeout_s=60.0)
    runs = [
        Simulation(scenario, replace(system_of("ours"), reads_in_turn=in_turn), checked=True).run()
        for in_turn in (False, True)
    ]
    for run in runs:
        # A worker's engine has them all at once.
        assert [job.startup_s for job in run.jobs] == pytest.approx([_SSD_S] * 3, abs=0.01)
    together, in_turn = ([job.actual_s or 0.0 for job in run.jobs] for run in runs)
    assert together == sorted(together, reverse=True)
    first, second, third = in_turn
    assert third > second > first > _SSD_S
    # A prompt of half the length is read in half the time.
    assert first - _SSD_S == pytest.approx(2 * (second - first), rel=0.1)
    assert all(job.outcome is SimOutcome.FINISHED for run in runs for job in run.jobs)


def test_a_job_whose_node_dies_before_its_turn_starts_elsewhere() -> None:
    nodes = (node("node0"), node("node1"))
    requests = [request(0.0, input_tokens=2000), request(0.0, input_tokens=2000), request(0.0, input_tokens=2000)]
    scenario = scene(*requests, nodes=nodes, max_jobs=3)
    system = replace(system_of("ours"), reads_in_turn=True)
    calm = Simulation(scenario, system, checked=True).run()
    first, second, _ = sorted(job.actual_s or 0.0 for job in calm.jobs)
    first_start_s = min(job.startup_s for job in calm.jobs)
    at_s = (first + second) / 2
    failures = tuple(NodeFailure(node=each.name, at_s=at_s, until_s=at_s + 5) for each in nodes)
    run = Simulation(replace(scenario, failures=failures), system, checked=True).run()
    assert len(finished(run)) == 3
    # Their starts were before that, and the pause counts.
    assert max(job.startup_s for job in run.jobs) > first_start_s + 5


def test_a_closed_replica_takes_jobs_again_before_its_last_job_has_ended() -> None:
    # The only gpu holds one of both models; the first job decodes for minutes.
    models = opt_models("opt-13b", 2)
    requests = [
        replace(request(arrival_s, output_tokens=num_tokens), model=models[number].name)
        for arrival_s, number, num_tokens in (
            (0.0, 0, 3_000),
            (1.0, 1, 10),
            (25.0, 1, 10),
            (30.0, 0, 10),
            (80.0, 0, 10),
        )
    ]
    long, other, _, early, late = play(scene(*requests, models=models, max_jobs=2), "ours").jobs
    assert long.path != "warm"
    assert other.startup_s > 60
    # As the last request came, one had waited for 50 s and that of the other model not for twice as long.
    assert early.startup_s == pytest.approx(50.0, abs=0.01)
    assert late.outcome is SimOutcome.FINISHED


def test_after_its_keep_alive_a_replica_loads_from_dram() -> None:
    # 2.7 s of decoding after 2.5 s of loading, kept for as long as that took.
    _, second = play(scene(request(0.0), request(60.0)), "serverlessllm").jobs
    assert second.startup_s == pytest.approx(_DRAM_S, abs=0.01)
    assert second.path == "load_dram"


def test_ray_serve_downloads_before_it_loads() -> None:
    (job,) = play(scene(request(0.0)), "ray-serve").jobs
    assert job.startup_s == pytest.approx(13.317 / 1.25 + 13.317 / 3 + 0.5, abs=0.01)


def test_a_cache_spares_the_second_download() -> None:
    for system, is_cached in (("ray-serve", False), ("ray-serve-cache", True)):
        _, second = play(scene(request(0.0), request(200.0)), system).jobs
        assert (second.startup_s < 6) is is_cached


def test_a_job_that_does_not_start_in_time_expires() -> None:
    scenario = scene(request(0.0, output_tokens=2_000), request(1.0, model=1), timeout_s=10.0)
    first, second = play(scenario, "serverlessllm").jobs
    assert first.outcome is SimOutcome.FINISHED
    assert second.outcome is SimOutcome.EXPIRED
    assert second.startup_s == 10.0


def test_the_papers_policy_moves_a_job_and_shepherd_kills_it() -> None:
    # Both models get into the DRAM of node 0, where a long job of model 1 runs when model 0 is wanted again. Node 1 is
    # free, but would have to fetch model 0.
    nodes = (node("node0", dram_bytes=28_000_000_000), node("node1", dram_bytes=28_000_000_000))
    scenario = scene(
        request(0.0, 1, output_tokens=50),
        request(15.0, 0, output_tokens=50),
        request(30.0, 1, output_tokens=1_500),
        request(40.0, 0, output_tokens=50),
        nodes=nodes,
        placement={"node0": ("opt-6.7b-000", "opt-6.7b-001"), "node1": ("opt-6.7b-001",)},
        models=opt_models("opt-6.7b", 2),
    )
    moved, killed = (play(scenario, system).jobs for system in ("serverlessllm", "shepherd"))
    assert moved[3].path == "migrate"
    assert 0 < moved[2].paused_s < 1
    assert killed[2].paused_s > 1
    assert {job.outcome for job in moved + killed} == {SimOutcome.FINISHED}


def test_the_gap_of_a_migration_shrinks_tenfold_each_round() -> None:
    played = rounds(1_000, step_s=0.03, prefill_s=0.003)
    # 1,000 tokens, then the 100 that came meanwhile, then a gap of 10 for which the source stops.
    assert played.total_s == pytest.approx(3.0 + 0.3 + 0.03 + 0.02)
    assert played.pause_s == pytest.approx(0.05)


def test_a_job_on_a_node_that_fails_starts_anew_elsewhere() -> None:
    scenario = scene(
        request(0.0, output_tokens=400),
        nodes=(node("node0"), node("node1")),
        failures=(NodeFailure(node="node0", at_s=5.0, until_s=50.0), NodeFailure(node="node1", at_s=1e3, until_s=1e4)),
    )
    for system in SYSTEMS:
        (job,) = play(scenario, system).jobs
        assert job.outcome is SimOutcome.FINISHED


def test_a_job_whose_node_fails_waits_from_then_on() -> None:
    scenario = scene(
        request(0.0, output_tokens=1_000),
        nodes=(node("node0"), node("node1")),
        failures=(NodeFailure(node="node0", at_s=20.0, until_s=1e4),),
    )
    ours, seen = system_of("ours"), list[WaitingJob]()

    class Listening:
        def __init__(self, seed: int) -> None:
            self._policy = ours.make_policy(seed)

        def decide(self, view: ClusterView, job: WaitingJob, estimates: Estimates) -> Order:
            seen.append(job)
            return self._policy.decide(view, job, estimates)

        def drained(self, view: ClusterView, job: WaitingJob) -> tuple[str, ...]:
            return self._policy.drained(view, job)

        def opened(self, view: ClusterView, jobs: Sequence[WaitingJob]) -> tuple[str, ...]:
            return self._policy.opened(view, jobs)

    Simulation(scenario, replace(ours, make_policy=Listening), checked=True).run()
    assert [(job.created_ms, job.waits_since_ms) for job in seen] == [(0, 0), (0, 20_000)]


def test_our_jobs_go_on_from_their_tokens() -> None:
    scenario = scene(
        request(0.0, output_tokens=1_000),
        request(0.0, output_tokens=1_000, model=1),
        nodes=(node("node0"), node("node1")),
        failures=(NodeFailure(node="node0", at_s=20.0, until_s=1e4),),
    )
    simulation = Simulation(scenario, system_of("ours"), checked=True)
    assert len(finished(simulation.run())) == 2


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_the_same_seed_gives_the_same_run(system: str) -> None:
    cell = cells_of("paper", seeds=range(1), is_quick=True)[1]
    first, second = (Simulation(paper_scenario(cell), system_of(system)).run() for _ in range(2))
    assert first == second


@settings(max_examples=25)
@given(
    arrivals=st.lists(st.tuples(st.floats(0, 40), st.integers(0, 2), st.integers(1, 400)), min_size=1, max_size=25),
    system=st.sampled_from(list(SYSTEMS)),
    max_jobs=st.sampled_from([1, 2, 8]),
    fails=st.booleans(),
)
def test_no_gpu_is_over_its_memory_and_every_job_ends(
    arrivals: list[tuple[float, int, int]], system: str, max_jobs: int, fails: bool
) -> None:
    requests = [request(at_s, model, output_tokens=tokens) for at_s, model, tokens in sorted(arrivals)]
    failures = (NodeFailure(node="node1", at_s=10.0, until_s=25.0),) if fails else ()
    nodes = (node("node0", dram_bytes=30_000_000_000), node("node1", num_gpus=2))
    run = play(scene(*requests, nodes=nodes, max_jobs=max_jobs, failures=failures), system)
    assert all(job.outcome is not SimOutcome.UNFINISHED for job in run.jobs)
    assert all(0 <= job.startup_s <= 300 for job in run.jobs)


def test_what_a_replica_over_two_gpus_leaves_is_not_free_before_it_has_left() -> None:
    # Found by chance: OPT-30B moves away for a model that wants one of its gpus, and another model comes to the other.
    arrivals = [
        (3.0, "opt-13b-001", 100), (4.0, "opt-30b-000", 400), (6.0, "opt-30b-000", 500), (23.0, "opt-30b-000", 200),
        (39.0, "opt-6.7b-002", 100), (57.0, "opt-6.7b-000", 100), (61.0, "opt-6.7b-002", 100),
    ]  # fmt: skip
    scenario = scene(
        *(replace(request(at_s, output_tokens=tokens), model=model) for at_s, model, tokens in arrivals),
        nodes=(node("node0", num_gpus=2), node("node1", num_gpus=2)),
        models=(*opt_models("opt-6.7b", 3), *opt_models("opt-13b", 2), *opt_models("opt-30b", 2)),
        max_jobs=2,
    )
    assert len(finished(play(scenario, "ours"))) == len(arrivals)


def test_loads_of_one_checkpoint_on_one_node_share_a_read() -> None:
    scenario = scene(request(0.0), request(0.0), nodes=(node("node0", num_gpus=2),))
    assert [job.startup_s for job in play(scenario, "serverlessllm").jobs] == pytest.approx([_SSD_S, _SSD_S], abs=0.01)


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_who_joins_a_load_has_started_as_cold_as_who_began_it(system: str) -> None:
    run = play(scene(request(0.0), request(1.0), max_jobs=2), system)
    assert run.jobs[0].path == run.jobs[1].path == ("load_ssd" if system_of(system).has_store else "load_remote")
    assert Samples.of(run).num_cold == 2


def test_a_gpu_loads_one_replica_after_another() -> None:
    # Both are in DRAM, so that nothing but the gpu is in the way of the second.
    in_dram = {"node0": tuple(f"opt-6.7b-{model:03}" for model in range(2))}
    scenario = replace(scene(request(0.0), request(0.0, model=1)), in_dram=in_dram)
    first, second = play(scenario, "ours").jobs
    assert (first.startup_s, second.startup_s) == pytest.approx((_DRAM_S, 2 * _DRAM_S), abs=0.01)


def test_loads_vary_as_those_did_that_were_measured() -> None:
    times = [request(1_000.0 * number) for number in range(20)]
    run = play(replace(scene(*times), load_ratios=(0.8, 2.0)), "serverlessllm")
    slow, fast = 2 * _DRAM_S, 0.8 * _DRAM_S
    later = [job.startup_s for job in run.jobs[1:]]
    assert all(min(abs(startup_s - slow), abs(startup_s - fast)) < 0.01 for startup_s in later)
    assert min(later) < 1.5 * _DRAM_S < max(later)


def test_dram_is_filled_while_nobody_wants_the_disk() -> None:
    (job,) = play(scene(request(30.0, model=2)), "ours").jobs
    assert job.startup_s == pytest.approx(_DRAM_S, abs=0.01)


@pytest.mark.parametrize("system", ["serverlessllm", "ours"])
def test_a_load_to_two_gpus_out_of_dram_is_predicted_by_what_the_last_one_took(system: str) -> None:
    requests = [replace(request(at_s), model="opt-30b-000") for at_s in (0.0, 200.0, 400.0)]
    scenario = scene(*requests, models=opt_models("opt-30b", 1), nodes=(node("node0", num_gpus=2),))
    *_, last = Simulation(scenario, replace(system_of(system), keep_alive_s=0.0), checked=True).run().jobs
    assert last.path == "load_dram"
    assert last.predicted_s == pytest.approx(last.actual_s)


def test_what_is_left_of_a_load_out_of_dram_is_what_one_of_its_gpus_lacks() -> None:
    seen: list[int] = []

    class Watching(Ours):
        def decide(self, view: ClusterView, job: WaitingJob, estimates: Estimates) -> Order:
            seen.extend(load.remaining_bytes for loads in view.loads.values() for load in loads)
            return super().decide(view, job, estimates)

    (model,) = opt_models("opt-30b", 1)
    # One comes as half of the load is done, one as only the engine has to start.
    requests = [replace(request(at_s), model=model.name) for at_s in (0.0, 0.6, 1.3)]
    scenario = scene(*requests, models=(model,), nodes=(node("node0", num_gpus=2),), max_jobs=3)
    system = replace(system_of("ours"), make_policy=lambda _: Watching(PolicySettings()))
    Simulation(replace(scenario, in_dram={"node0": (model.name,)}), system, checked=True).run()
    assert seen == [model.checkpoint_bytes // 2 - 15_000_000_000, 0]


def test_every_model_has_a_copy_and_the_popular_have_more() -> None:
    models = opt_models("opt-6.7b", 4)
    nodes = tuple(replace(node(f"node{number}"), ssd_bytes=2 * models[0].checkpoint_bytes) for number in range(4))
    requests = [request(float(number), 0) for number in range(9)] + [request(10.0, model) for model in (1, 2, 3)]
    trace = Trace(name="t", duration_s=20.0, requests=tuple(requests))
    placed = place(Hardware(nodes=nodes, models=models), trace, Placement.POPULARITY)
    copies = Counter(name for names in placed.values() for name in names)
    assert copies["opt-6.7b-000"] == 4
    assert set(copies) == {model.name for model in models}
    even = place(Hardware(nodes=nodes, models=models), trace, Placement.ROUND_ROBIN)
    assert set(Counter(name for names in even.values() for name in names).values()) == {2}


def test_remaining_size_with_aging_beats_first_come_on_the_mean_and_sharing_on_the_tail() -> None:
    orders = {order.discipline: order for order in compare_orders(utilisation=0.5, cv=4.0, num_loads=2_000, seed=1)}
    ours = orders[Discipline.REMAINING]
    assert ours.mean_s < orders[Discipline.FCFS].mean_s
    assert ours.p99_s < orders[Discipline.SHARING].p99_s
    assert ours.jain > orders[Discipline.FCFS].jain


def test_what_cannot_work_is_refused_before_anything_runs() -> None:
    with pytest.raises(SimulationError, match="needs"):
        scene(request(0.0), models=opt_models("opt-30b", 1))
    with pytest.raises(SimulationError, match="ssd_bytes_per_s"):
        NodeHardware(
            name="n",
            gpu=A40,
            num_gpus=1,
            dram_bytes=1,
            ssd_bytes=1,
            ssd_bytes_per_s=0.0,
            network_bytes_per_s=1.0,
        )
    with pytest.raises(TraceError, match=r"opt-6\.7b-007"):
        scene(request(0.0, model=7))
    with pytest.raises(SimulationError, match="policies are"):
        system_of("none")
    with pytest.raises(SimulationError, match="presets are"):
        cells_of("none", seeds=range(1), is_quick=True)
    with pytest.raises(SimulationError, match="no node"):
        Hardware(nodes=(), models=opt_models("opt-13b", 1))
    with pytest.raises(SimulationError, match="does not fit"):
        scene(request(0.0), placement={"node0": ("opt-6.7b-000",)}, nodes=(_tiny_disk(),))


def _tiny_disk() -> NodeHardware:
    return NodeHardware(
        name="node0",
        gpu=A40,
        num_gpus=1,
        dram_bytes=1,
        ssd_bytes=1,
        ssd_bytes_per_s=1.0,
        network_bytes_per_s=1.0,
    )
