"""Who makes room when a job of another model has waited long enough, who does not have to, and who no longer has to."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.cluster import GpuId, GpuState, ModelInfo, Replica, ReplicaState
from sllm_tasks.policy.decision import AssignmentPath
from sllm_tasks.policy.drain import MAX_WAIT_MS, TURN_MS, replicas_to_drain, replicas_to_open
from sllm_tasks.policy.view import ClusterView, Queue, RunningJob, WaitingJob, queues_of
from tests.unit.policy.views import choose, make_model, make_replica, make_view, views, waiting_job

_FIRST, _SECOND = GpuId("node0", 0), GpuId("node1", 0)
_LARGE, _OTHER = make_model(bytes_per_gpu=90), make_model("n", bytes_per_gpu=60)


def busy(replica_id: str, gpu: GpuId = _FIRST, num_jobs: int = 1, **changes: object) -> Replica:
    return make_replica(replica_id, gpu, _OTHER, num_jobs=num_jobs, **changes)


def view_of(*replicas: Replica, now_ms: int = TURN_MS, gpus: tuple[GpuId, ...] = (_FIRST,)) -> ClusterView:
    models: list[ModelInfo] = [_LARGE, _OTHER]
    return make_view(*replicas, models=models, gpus=list(gpus), now_ms=now_ms)


def waiting(num_jobs: int, oldest_ms: int, tenant: str = waiting_job().tenant) -> dict[str, dict[str, Queue]]:
    return {"n": {tenant: Queue(num_jobs, oldest_ms)}}


def test_a_job_that_has_waited_for_a_turn_gets_room_made() -> None:
    assert replicas_to_drain(view_of(busy("steady")), waiting_job()) == ("steady",)


def test_a_job_that_came_just_now_closes_nobody() -> None:
    assert replicas_to_drain(view_of(busy("steady"), now_ms=TURN_MS - 1), waiting_job()) == ()


def test_a_replica_serves_for_a_turn_before_it_has_to_make_room() -> None:
    assert replicas_to_drain(view_of(busy("young", ready_ms=1)), waiting_job()) == ()


def test_the_gpu_where_the_fewest_jobs_have_to_end_makes_room() -> None:
    view = view_of(busy("many", _FIRST, 3), busy("few", _SECOND, 2), gpus=(_FIRST, _SECOND))
    assert replicas_to_drain(view, waiting_job()) == ("few",)


def test_a_replica_whose_model_nobody_waits_for_makes_room_before_one_whose_places_would_be_taken() -> None:
    steady = make_replica("steady", _SECOND, make_model("o", bytes_per_gpu=60), num_jobs=3)
    view = make_view(
        busy("few"), steady, models=[_LARGE, _OTHER, make_model("o")], gpus=[_FIRST, _SECOND], now_ms=TURN_MS
    )
    assert replicas_to_drain(view, waiting_job()) == ("few",)
    assert replicas_to_drain(replace(view, queues=waiting(3, TURN_MS)), waiting_job()) == ("steady",)


def test_a_replica_whose_model_has_waiting_jobs_closes_only_for_those_that_have_waited_twice_as_long() -> None:
    view = view_of(busy("steady"), now_ms=2 * TURN_MS)
    assert replicas_to_drain(replace(view, queues=waiting(1, TURN_MS)), waiting_job()) == ("steady",)
    assert replicas_to_drain(replace(view, queues=waiting(1, TURN_MS - 1)), waiting_job()) == ()


def test_jobs_of_another_tenant_or_such_that_never_start_protect_no_replica_for_good() -> None:
    view = replace(view_of(busy("steady"), now_ms=TURN_MS), queues=waiting(2_000, 0, tenant="flood"))
    assert replicas_to_drain(view, waiting_job()) == ("steady",)
    stuck = waiting(1, -1_000_000)
    assert (
        replicas_to_drain(replace(view_of(busy("steady"), now_ms=MAX_WAIT_MS - 1), queues=stuck), waiting_job()) == ()
    )
    late = replace(view_of(busy("steady"), now_ms=MAX_WAIT_MS), queues=stuck)
    assert replicas_to_drain(late, waiting_job()) == ("steady",)


def test_no_more_is_closed_than_is_needed() -> None:
    small = busy("small", bytes_per_gpu=30)
    view = view_of(small, busy("large", bytes_per_gpu=60))
    assert replicas_to_drain(view, replace(waiting_job(), model="n")) == ()
    assert replicas_to_drain(view, waiting_job()) == ("large", "small")


def test_nobody_is_closed_while_a_replica_drains_for_the_job() -> None:
    view = view_of(busy("steady"), busy("other", _SECOND), gpus=(_FIRST, _SECOND))
    assert replicas_to_drain(view.with_draining(("steady",)), waiting_job()) == ()


def test_nobody_is_closed_where_a_replica_ends_anyway_because_another_of_its_gpus_is_drained() -> None:
    group, pair = (GpuId("node0", 0), GpuId("node0", 1)), make_model("pair", bytes_per_gpu=60, num_gpus=2)
    spread = make_replica("spread", group[1], pair, gpus=group, num_jobs=1)
    other = make_replica("other", _SECOND, _OTHER, num_jobs=1)
    models, gpus = [_LARGE, _OTHER, pair], [*group, _SECOND]
    assert replicas_to_drain(make_view(spread, other, models=models, gpus=gpus, now_ms=TURN_MS), waiting_job()) != ()
    drained = make_view(spread, other, models=models, gpus=gpus, now_ms=TURN_MS, draining=frozenset({group[1]}))
    assert replicas_to_drain(drained, waiting_job()) == ()


def serving(view: ClusterView, *nodes: str) -> ClusterView:
    """Only these have checkpoints, and others may fetch them there."""
    changed = {
        name: replace(node, url=f"http://{name}") if name in nodes else replace(node, checkpoints=frozenset())
        for name, node in view.nodes.items()
    }
    return replace(view, nodes=changed)


def test_room_is_made_on_nodes_that_would_fetch_the_checkpoint_where_no_node_that_has_it_could_load_it() -> None:
    view = serving(view_of(busy("here"), busy("there", _SECOND, 3), gpus=(_FIRST, _SECOND)), _SECOND.node)
    assert replicas_to_drain(view, waiting_job()) == ("there",)
    for unfit in ({"state": GpuState.DRAINING}, {"capacity_bytes": 89}):
        gpus = {**view.gpus, _SECOND: replace(view.gpus[_SECOND], **unfit)}
        assert replicas_to_drain(replace(view, gpus=gpus), waiting_job()) == ("here",)
    nobody_serves = {name: replace(node, url=None) for name, node in view.nodes.items()}
    assert replicas_to_drain(replace(view, gpus=gpus, nodes=nobody_serves), waiting_job()) == ()


def test_a_node_with_too_few_gpus_for_a_model_keeps_no_other_node_from_making_room() -> None:
    pair, here = make_model("pair", bytes_per_gpu=90, num_gpus=2), [GpuId("here", index) for index in (0, 1)]
    replicas = [make_replica(f"on-{gpu}", gpu, _OTHER, num_jobs=1) for gpu in (*here, _FIRST)]
    view = make_view(*replicas, models=[pair, _OTHER], gpus=[*here, _FIRST], now_ms=TURN_MS)
    assert replicas_to_drain(serving(view, _FIRST.node), waiting_job("pair")) == ("on-here.0", "on-here.1")


def test_nobody_is_closed_for_a_job_that_fits_nowhere() -> None:
    models = [make_model(bytes_per_gpu=101), _OTHER]
    view = make_view(busy("steady"), models=models, gpus=[_FIRST], now_ms=TURN_MS)
    assert replicas_to_drain(view, waiting_job()) == ()


def test_a_draining_replica_takes_no_jobs_and_is_the_first_to_be_evicted() -> None:
    draining = make_replica("draining", _FIRST, _OTHER, state=ReplicaState.DRAINING, idle_since_ms=2)
    idle = make_replica("idle", _FIRST, _OTHER, bytes_per_gpu=40, idle_since_ms=1)
    view = make_view(draining, idle, models=[_LARGE, _OTHER], gpus=[_FIRST])
    assert choose(view, waiting_job("n")).replica_id == "idle"
    assert choose(replace(view, models={"m": make_model(bytes_per_gpu=60)}), waiting_job()).victims == ("draining",)


@given(views())
def test_what_is_drained_takes_jobs_now_and_is_enough(view: ClusterView) -> None:
    job = WaitingJob(id="job_1", model="m", attempt=1, waits_since_ms=view.now_ms - TURN_MS)
    if choose(view, job).path is not AssignmentPath.WAIT:
        return
    drained = replicas_to_drain(view, job)
    if not drained:
        return
    assert all(view.replicas[id_].state is ReplicaState.READY for id_ in drained)
    after = view.with_draining(drained)
    emptied = [replace(after.replicas[id_], num_jobs=0) for id_ in drained]
    ended = replace(after, replicas=after.replicas.with_replicas(emptied))
    assert replicas_to_drain(ended, job) == ()
    draining = [replica for replica in ended.replicas.values() if replica.state is ReplicaState.DRAINING]
    others_idle = ended.replicas.with_replicas(replace(replica, num_jobs=0) for replica in draining)
    assert choose(replace(ended, replicas=others_idle), job).path is not AssignmentPath.WAIT


def closed_for(other_ms: int, own_ms: int | None, *, now_ms: int) -> tuple[ClusterView, list[WaitingJob]]:
    """A closed replica of `n`, since when a job of another model waits, and since when one of its own."""
    jobs = [replace(waiting_job(), waits_since_ms=other_ms)]
    if own_ms is not None:
        jobs.append(replace(waiting_job("n"), id="own", waits_since_ms=own_ms))
    view = view_of(busy("closed", state=ReplicaState.DRAINING), now_ms=now_ms)
    return replace(view, queues=queues_of(jobs)), jobs


def test_a_closed_replica_takes_jobs_again_when_its_own_wait_and_those_that_it_was_closed_for_not_twice_as_long() -> (
    None
):
    assert replicas_to_open(*closed_for(0, TURN_MS + 1, now_ms=2 * TURN_MS)) == ()
    assert replicas_to_open(*closed_for(0, TURN_MS - 1, now_ms=2 * TURN_MS)) == ("closed",)
    assert replicas_to_open(*closed_for(0, 1, now_ms=MAX_WAIT_MS)) == ()


def test_a_closed_replica_whose_jobs_nobody_waits_for_stays_closed() -> None:
    assert replicas_to_open(*closed_for(0, None, now_ms=1)) == ()


def test_a_replica_that_was_closed_for_a_job_that_has_gone_takes_jobs_again() -> None:
    view, jobs = closed_for(0, TURN_MS, now_ms=2 * TURN_MS)
    assert replicas_to_open(view, jobs[1:]) == ("closed",)


def test_a_job_that_could_not_be_loaded_there_keeps_no_replica_closed() -> None:
    view, jobs = closed_for(0, 2 * TURN_MS - 1, now_ms=2 * TURN_MS)
    assert replicas_to_open(view, jobs) == ()
    full = {**view.models, "m": replace(_LARGE, max_replicas=0)}
    assert replicas_to_open(replace(view, models=full), jobs) == ("closed",)
    assert replicas_to_open(replace(view, models={"n": _OTHER}), jobs) == ("closed",)
    large = {**view.models, "m": make_model(bytes_per_gpu=101)}
    assert replicas_to_open(replace(view, models=large), jobs) == ("closed",)


def test_a_replica_that_its_model_may_not_have_beside_one_loaded_since_or_not_on_that_gpu_stays_closed() -> None:
    view, jobs = closed_for(0, 0, now_ms=1)
    second = {_SECOND: replace(view.gpus[_FIRST], id=_SECOND)}
    elsewhere = replace(
        view, replicas=view.replicas.with_replicas([busy("new", _SECOND)]), gpus={**view.gpus, **second}
    )
    assert replicas_to_open(elsewhere, jobs) == ("closed",)
    alone = {**view.models, "n": replace(_OTHER, max_replicas=1)}
    assert replicas_to_open(replace(elsewhere, models=alone), jobs) == ()
    here = replace(view, replicas=view.replicas.with_replicas([busy("new", _FIRST)]))
    assert replicas_to_open(here, jobs) == ()


def test_no_more_replicas_are_opened_than_their_model_may_have() -> None:
    view, jobs = closed_for(0, 0, now_ms=1)
    closed = view.replicas.with_replicas([busy("too", _SECOND, state=ReplicaState.DRAINING)])
    view = replace(
        view, replicas=closed, gpus={_FIRST: view.gpus[_FIRST], _SECOND: replace(view.gpus[_FIRST], id=_SECOND)}
    )
    assert replicas_to_open(view, jobs) == ("closed", "too")
    alone = {**view.models, "n": replace(_OTHER, max_replicas=1)}
    assert len(replicas_to_open(replace(view, models=alone), jobs)) == 1


def test_a_closed_replica_that_has_made_room_or_whose_jobs_are_on_the_move_stays_closed() -> None:
    view, jobs = closed_for(0, 0, now_ms=1)
    stays = RunningJob(id="a", model="n", prompt_tokens=1, max_tokens=1, started_ms=0)
    assert replicas_to_open(view.with_running({"closed": (stays,)}), jobs) == ("closed",)
    leaves = replace(stays, id="b", moves_to="elsewhere")
    assert replicas_to_open(view.with_running({"closed": (stays, leaves)}), jobs) == ()
    empty = view.replicas.with_replicas([busy("closed", num_jobs=0, state=ReplicaState.DRAINING)])
    assert replicas_to_open(replace(view, replicas=empty), jobs) == ()


def test_a_replica_on_a_gpu_that_takes_no_work_and_one_of_another_deployment_stay_closed() -> None:
    view, jobs = closed_for(0, 0, now_ms=1)
    assert replicas_to_open(view, jobs) == ("closed",)
    leaving = {_FIRST: replace(view.gpus[_FIRST], state=GpuState.DRAINING)}
    assert replicas_to_open(replace(view, gpus=leaving), jobs) == ()
    assert replicas_to_open(replace(view, gpus={}), jobs) == ()
    newer = {**view.models, "n": replace(_OTHER, checkpoint="newer")}
    assert replicas_to_open(replace(view, models=newer), jobs) == ()


_SUBMITTED = st.tuples(
    st.sampled_from("mno"), st.integers(0, 2 * MAX_WAIT_MS), st.sampled_from(["batch", "interactive"])
)


@given(views(), st.lists(_SUBMITTED, max_size=6), st.integers(0, 2 * MAX_WAIT_MS))
def test_what_is_opened_would_not_be_closed_at_once(
    view: ClusterView, submitted: list[tuple[str, int, str]], own_ms: int
) -> None:
    jobs = [
        WaitingJob(id=f"job_{number}", model=model, attempt=1, waits_since_ms=since_ms, job_class=job_class)
        for number, (model, since_ms, job_class) in enumerate(submitted)
    ]
    for number, replica in enumerate(view.replicas.values()):
        jobs.append(WaitingJob(id=f"own_{number}", model=replica.model, attempt=1, waits_since_ms=own_ms))
    # All replicas have served for a turn by then.
    view = replace(view, now_ms=2 * MAX_WAIT_MS, queues=queues_of(jobs))
    opened = replicas_to_open(view, jobs)
    assert all(view.replicas[id_].state is ReplicaState.DRAINING for id_ in opened)
    after = view.with_open(opened)
    for replica_id in opened:
        replica = after.replicas[replica_id]
        others = [job for job in jobs if job.model != replica.model]
        assert all(replica_id not in replicas_to_drain(after, job) for job in others)


def test_a_job_that_takes_two_gpus_gets_both_of_a_node_emptied() -> None:
    pair = make_model("pair", bytes_per_gpu=90, num_gpus=2)
    here = [GpuId("here", index) for index in (0, 1)]
    there = [GpuId("there", index) for index in (0, 1)]
    replicas = [
        make_replica("a", here[0], _OTHER, num_jobs=1),
        make_replica("b", here[1], _OTHER, num_jobs=3),
        make_replica("c", there[0], _OTHER, num_jobs=2),
        make_replica("d", there[1], _OTHER, num_jobs=1),
        make_replica("e", _FIRST, _OTHER, num_jobs=1),
    ]
    view = make_view(*replicas, models=[pair, _OTHER], gpus=[*here, *there, _FIRST], now_ms=TURN_MS)
    drained = replicas_to_drain(view, waiting_job("pair"))
    assert sorted(drained) == ["c", "d"]
    after = view.with_draining(drained)
    assert replicas_to_drain(after, waiting_job("pair")) == ()
    one_left = after.replicas.with_replicas([replace(after.replicas["d"], state=ReplicaState.READY)])
    assert replicas_to_drain(replace(after, replicas=one_left), waiting_job("pair")) == ("d",)


def test_waiting_jobs_are_counted_by_model_and_tenant_without_those_of_batches() -> None:
    jobs = [replace(waiting_job(model), waits_since_ms=since_ms) for model, since_ms in (("m", 3), ("n", 2), ("m", 1))]
    jobs += [replace(waiting_job(), tenant="other", waits_since_ms=5), replace(waiting_job("o"), job_class="batch")]
    mine = waiting_job().tenant
    assert queues_of(jobs) == {"m": {mine: Queue(2, 1), "other": Queue(1, 5)}, "n": {mine: Queue(1, 2)}}
