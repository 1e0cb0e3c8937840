"""Moves of running jobs over REST: starting one, aborting it, and nodes that take no more work."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sllm_tasks.cluster import GpuId, GpuState
from sllm_tasks.drains import follow_drains
from sllm_tasks.ids import new_id
from sllm_tasks.ledger.audit import list_audit
from sllm_tasks.ledger.drains import drain
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.pages import PageRequest
from tests.support.web import Web, add_key


def post(web: Web, path: str, body: object = None, auth: dict[str, str] | None = None) -> tuple[int, dict[str, object]]:
    response = web.http.post(f"/api/v1/{path}", json=body, headers=auth or web.auth)
    return response.status_code, response.json


def test_a_job_that_nobody_knows_cannot_move(web: Web) -> None:
    status, answer = post(web, "migrations", {"job_id": new_id("job")})
    assert (status, answer["code"]) == (404, "not_found")


def test_a_job_that_waits_cannot_move(web: Web) -> None:
    post(web, "queues/*/pause")
    status, answer = post(web, "migrations", {"job_id": web.submit()})
    assert (status, answer["code"]) == (409, "conflict")


@pytest.mark.parametrize("body", [{}, {"job_id": "x"}, {"job_id": new_id("job"), "to": "gpu 7"}])
def test_what_is_no_move_is_refused(web: Web, body: dict[str, str]) -> None:
    assert post(web, "migrations", body)[0] == 422


def test_a_migration_that_nobody_knows_is_not_found(web: Web) -> None:
    assert post(web, "migrations/migration_x/abort")[0] in {404, 409}
    assert web.http.get("/api/v1/migrations/migration_x", headers=web.auth).status_code == 404
    assert web.http.get("/api/v1/migrations", headers=web.auth).json["data"] == []


def test_a_drained_node_takes_no_work_until_it_is_taken_back(web: Web) -> None:
    gpu = web.services.live.fleet.gpus()[0]
    assert post(web, f"nodes/{gpu.id.node}/drain")[0] == 200
    assert state_of(web, gpu.id) is GpuState.DRAINING
    assert post(web, f"nodes/{gpu.id.node}/undrain")[0] == 200
    assert state_of(web, gpu.id) is GpuState.UP
    with web.services.ledger.reading() as session:
        actions = [row.action for row in list_audit(session, PageRequest()).rows]
    assert {"node.drain", "node.undrain"} <= set(actions)


def test_a_gpu_stays_drained_when_its_worker_starts_again_and_when_the_live_state_is_lost(web: Web) -> None:
    live, ledger = web.services.live, web.services.ledger
    gpu = live.fleet.gpus()[0]
    assert post(web, f"nodes/{gpu.id.node}/gpus/{gpu.id.index}/drain")[0] == 200
    live.fleet.register_gpu(replace(gpu, worker_id="worker_next"))
    assert state_of(web, gpu.id) is GpuState.DRAINING
    live.drains.set((), live.drains.look().version)
    assert state_of(web, gpu.id) is GpuState.UP
    follow_drains(ledger, live)
    assert state_of(web, gpu.id) is GpuState.DRAINING
    assert post(web, f"nodes/{gpu.id.node}/undrain")[0] == 200
    assert state_of(web, gpu.id) is GpuState.UP


def test_a_gpu_of_a_drained_node_is_taken_back_with_its_node_only(web: Web) -> None:
    node = web.services.live.fleet.gpus()[0].id.node
    post(web, f"nodes/{node}/drain")
    status, answer = post(web, f"nodes/{node}/gpus/0/undrain")
    assert (status, answer["code"]) == (409, "conflict")
    assert post(web, f"nodes/{node}/gpus/7/drain")[0] == 404
    assert post(web, f"nodes/{node}/undrain")[0] == 200


def test_a_drained_node_that_is_gone_is_taken_back_and_shown_as_what_it_is(web: Web) -> None:
    with web.services.ledger.transaction() as session:
        drain(session, "gone", by="key_test", now=datetime.now(UTC))
    status, answer = post(web, "nodes/gone/undrain")
    assert (status, answer["id"], answer["agent"], answer["gpus"]) == (200, "gone", "down", [])
    assert post(web, "nodes/gone/undrain")[0] == 404


def state_of(web: Web, gpu_id: GpuId) -> GpuState:
    found = web.services.live.fleet.gpu(gpu_id)
    assert found is not None
    return found.state


def test_a_node_that_nobody_knows_is_not_drained(web: Web) -> None:
    assert post(web, "nodes/nowhere/drain")[0] == 404


def test_moves_need_the_right_to_change_things(web: Web) -> None:
    plain = add_key(web.services.ledger, Scope.ADMIN_READ)
    auth = {"Authorization": f"Bearer {plain}"}
    assert post(web, "migrations", {"job_id": new_id("job")}, auth)[0] == 403
    assert post(web, "nodes/node0/drain", auth=auth)[0] == 403
