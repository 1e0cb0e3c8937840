"""What the router would do, and what it has done, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sllm_tasks.cluster import NodeInfo, Tier
from sllm_tasks.ids import new_id
from sllm_tasks.ledger.decisions import Decision, add_decisions, note_actual_starts
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.loads import MeasuredLoad, add_loads
from tests.support.web import DIGEST, GPU, MODEL, Web, add_key

_PATH = "/api/v1/scheduler/explain"
_DECISIONS = "/api/v1/scheduler/decisions"


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
    assert web.http.get(_DECISIONS, headers=headers).status_code == 403


def _decide(web: Web, job_id: str, path: str, started_s: float | None = None) -> str:
    """Have the ledger keep a decision about a job that came now; returns its id."""
    start = {"seconds": 1.0, "low_s": 0.5, "high_s": 2.0}
    choice = {"path": path, "replica_id": "", "gpus": [str(GPU)], "start": start, "reason": ""}
    now = datetime.now(UTC)
    decision = Decision(
        id=new_id("decision"), job_id=job_id, attempt=1, at=now, path=path, choice=choice,
        candidates=(choice, {**choice, "path": "wait"}), predicted_s=1.0,
    )  # fmt: skip
    with web.services.ledger.transaction() as session:
        add_decisions(session, [decision])
        if started_s is not None:
            note_actual_starts(session, job_id, 1, now + timedelta(seconds=started_s))
    return decision.id


def test_decisions_are_listed_newest_first_with_what_else_could_have_been_done_and_what_came_of_them(web: Web) -> None:
    first, second = web.submit(), web.submit()
    ids = [_decide(web, first, "load_ssd", started_s=1.25), _decide(web, second, "load_dram")]
    found = web.http.get(_DECISIONS, headers=web.auth).json
    assert [decision["id"] for decision in found["data"]] == ids[::-1]
    assert [decision["actual_s"] for decision in found["data"]] == [None, 1.25]
    assert found["data"][1]["choice"]["start"] == {"seconds": 1.0, "low_s": 0.5, "high_s": 2.0}
    assert [candidate["path"] for candidate in found["data"][1]["candidates"]] == ["load_ssd", "wait"]
    newest = web.http.get(f"{_DECISIONS}?limit=1", headers=web.auth).json
    assert ([decision["id"] for decision in newest["data"]], newest["has_more"]) == ([ids[1]], True)
    oldest = web.http.get(f"{_DECISIONS}?limit=1&order=asc", headers=web.auth).json
    assert ([decision["id"] for decision in oldest["data"]], oldest["last_id"]) == ([ids[0]], ids[0])
    older = web.http.get(f"{_DECISIONS}?limit=1&after={ids[1]}", headers=web.auth).json
    assert ([decision["id"] for decision in older["data"]], older["has_more"]) == ([ids[0]], False)


def test_decisions_are_found_by_job_and_by_model(web: Web) -> None:
    first, second = web.submit(), web.submit()
    _decide(web, first, "load_ssd")
    _decide(web, second, "load_dram")

    def jobs(query: str) -> list[str]:
        listed = web.http.get(f"{_DECISIONS}?{query}", headers=web.auth).json["data"]
        return [decision["job_id"] for decision in listed]

    assert jobs(f"job={first}") == [first]
    assert jobs(f"model={MODEL}") == [second, first]
    assert jobs("model=another") == []
    assert jobs(f"job={new_id('job')}") == []


@pytest.mark.parametrize("query", ["job=nonsense", "after=job_1", "model=", "limit=0", "path=warm"])
def test_a_list_of_decisions_that_cannot_be_is_refused(web: Web, query: str) -> None:
    assert web.http.get(f"{_DECISIONS}?{query}", headers=web.auth).status_code == 422
