"""Operations: given to one node agent, kept by its lease, ended once."""

from __future__ import annotations

from functools import partial

from sllm_tasks.livestate.jobs import Verdict
from tests.integration.livestate.world import FAR_MS, World
from tests.support.races import run_together

_RECORD = {"kind": "fetch", "target": "c", "args": {"node": "node0"}}


def _let_lease_run_out(world: World) -> None:
    world.redis.hset("sllm:operation:op_1", "lease_ms", 1)


def test_a_node_agent_gets_the_record_of_the_operation_that_it_claims(world: World) -> None:
    world.live.operations.create("op_1", 1, _RECORD)
    assert world.live.operations.claim("op_1", 1, "agent_a", FAR_MS) == _RECORD


def test_of_many_node_agents_one_gets_an_operation(world: World) -> None:
    world.live.operations.create("op_1", 1, _RECORD)
    claims = [partial(world.live.operations.claim, "op_1", 1, f"agent_{i}", FAR_MS) for i in range(8)]
    answers = run_together(claims)
    assert answers.count(_RECORD) == 1
    assert answers.count("taken") == 7


def test_an_operation_may_be_claimed_again_by_its_owner_and_after_its_lease_by_anyone(world: World) -> None:
    world.live.operations.create("op_1", 1, _RECORD)
    world.live.operations.claim("op_1", 1, "agent_a", FAR_MS)
    assert world.live.operations.claim("op_1", 1, "agent_a", FAR_MS) == _RECORD
    _let_lease_run_out(world)
    assert world.live.operations.claim("op_1", 1, "agent_b", FAR_MS) == _RECORD
    assert world.live.operations.beat("op_1", 1, "agent_a", {}) is Verdict.STALE


def test_messages_about_other_attempts_unknown_operations_or_too_late_claim_nothing(world: World) -> None:
    world.live.operations.create("op_1", 2, _RECORD)
    assert world.live.operations.claim("op_1", 1, "agent_a", FAR_MS) == "stale"
    assert world.live.operations.claim("op_none", 1, "agent_a", FAR_MS) == "unknown"
    assert world.live.operations.claim("op_1", 2, "agent_a", 1) == "expired"


def test_progress_renews_the_lease_and_is_shown(world: World) -> None:
    world.live.operations.create("op_1", 1, _RECORD)
    world.live.operations.claim("op_1", 1, "agent_a", FAR_MS)
    _let_lease_run_out(world)
    assert world.live.operations.beat("op_1", 1, "agent_a", {"done_bytes": 5}) is Verdict.OK
    view = world.live.operations.view("op_1")
    assert view is not None
    assert (view.owner, view.progress, view.result) == ("agent_a", {"done_bytes": 5}, None)
    assert view.lease_ms > world.live.now_ms()


def test_an_operation_that_ended_keeps_its_result_and_cannot_be_claimed(world: World) -> None:
    world.live.operations.create("op_1", 1, _RECORD)
    world.live.operations.claim("op_1", 1, "agent_a", FAR_MS)
    assert world.live.operations.finish("op_1", 1, "agent_a", {"digest": "c"}) is Verdict.OK
    view = world.live.operations.view("op_1")
    assert view is not None
    assert view.result == {"digest": "c"}
    assert world.live.operations.claim("op_1", 1, "agent_b", FAR_MS) == "ended"
    assert world.reports() == ["operation", "operation"]
    assert 0 < world.redis.ttl("sllm:operation:op_1") <= 3_600


def test_a_new_attempt_replaces_the_record_and_shuts_the_old_owner_out(world: World) -> None:
    world.live.operations.create("op_1", 1, _RECORD)
    world.live.operations.claim("op_1", 1, "agent_a", FAR_MS)
    world.live.operations.create("op_1", 2, _RECORD)
    assert world.live.operations.finish("op_1", 1, "agent_a", {}) is Verdict.STALE
    assert world.live.operations.claim("op_1", 2, "agent_b", FAR_MS) == _RECORD


def test_an_operation_without_a_record_has_no_view(world: World) -> None:
    assert world.live.operations.view("op_none") is None
