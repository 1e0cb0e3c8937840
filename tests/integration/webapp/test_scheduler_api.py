"""What the router would do, over HTTP and on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sllm_tasks.cluster import NodeInfo, Tier
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.loads import MeasuredLoad, add_loads
from tests.support.web import DIGEST, GPU, MODEL, Web, add_key

_PATH = "/api/v1/scheduler/explain"


def test_a_warm_replica_is_what_a_job_would_get_and_nothing_is_decided(web: Web) -> None:
    response = web.http.post(_PATH, json={"model": MODEL}, headers=web.auth)
    assert response.status_code == 200, response.text
    found = response.json
    assert (found["choice"]["path"], found["choice"]["replica_id"]) == ("warm", "replica_test")
    assert found["candidates"][0]["start"]["low_s"] <= found["candidates"][0]["start"]["high_s"]
    assert found["accuracy"] is None
    replica = web.services.live.fleet.replica("replica_test")
    assert replica is not None
    assert replica.replica.num_jobs == 0
    assert web.services.live.reports.read(10, 1) == []


def test_a_load_is_priced_by_what_was_measured(web: Web) -> None:
    web.services.live.fleet.drop_replica("replica_test")
    node = NodeInfo(name=GPU.node, checkpoints=frozenset({DIGEST}))
    web.services.live.fleet.beat_node(node, web.services.live.now_ms())
    now = datetime.now(UTC)
    loads = [
        MeasuredLoad(
            id=f"load_{index}", checkpoint=DIGEST, node=GPU.node, gpu=0, tier=Tier.SSD, num_bytes=1, seconds=3.0, at=now
        )
        for index in range(3)
    ]
    with web.services.ledger.transaction() as session:
        add_loads(session, loads)
    found = web.http.post(_PATH, json={"model": MODEL, "prompt_tokens": 1}, headers=web.auth).json
    assert (found["choice"]["path"], found["choice"]["gpus"]) == ("load_ssd", [str(GPU)])
    assert found["candidates"][0]["start"]["seconds"] == pytest.approx(3.0, abs=0.1)


def test_a_model_that_is_not_there_and_lengths_that_cannot_be_are_refused(web: Web) -> None:
    assert web.http.post(_PATH, json={"model": "unknown"}, headers=web.auth).status_code == 404
    assert web.http.post(_PATH, json={"model": MODEL, "prompt_tokens": 0}, headers=web.auth).status_code == 422
    assert web.http.post(_PATH, json={"model": MODEL, "more": 1}, headers=web.auth).status_code == 422


def test_only_those_who_may_look_are_told(web: Web) -> None:
    key = add_key(web.services.ledger, Scope.JOBS_READ)
    headers = {"Authorization": f"Bearer {key}"}
    assert web.http.post(_PATH, json={"model": MODEL}, headers=headers).status_code == 403
