"""Models, operations, nodes, placements and keys over HTTP, and the trail that changes leave."""

from __future__ import annotations

from typing import Any

import pytest

from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import JobError
from sllm_tasks.ledger import inventory
from sllm_tasks.ledger.audit import list_audit
from sllm_tasks.ledger.encoding import from_ms
from sllm_tasks.ledger.operations import begin_operation, fail_operation, succeed_operation
from sllm_tasks.ledger.pages import PageRequest
from tests.support.web import CONTEXT, DIGEST, MODEL, Web


def test_putting_a_model_starts_a_deploy_operation(web: Web) -> None:
    body = {"source": "/models/opt", "node": "node1", "keep_alive_s": 5.0}
    response = web.http.put("/api/v1/models/facebook/opt", json=body, headers=web.auth)
    assert response.status_code == 202, response.text
    operation = web.http.get(response.headers["Location"], headers=web.auth).json
    assert (operation["kind"], operation["target"], operation["status"]) == ("deploy", "facebook/opt", "pending")
    model = web.http.get("/api/v1/models/facebook/opt", headers=web.auth).json
    assert (model["state"], model["source"], model["keep_alive_s"]) == ("deploying", "/models/opt", 5.0)


def test_a_keep_alive_is_a_number_of_seconds_or_auto(web: Web) -> None:
    body = {"source": "/models/opt", "keep_alive_s": "auto"}
    assert web.http.put("/api/v1/models/opt", json=body, headers=web.auth).status_code == 202
    model = web.http.get("/api/v1/models/opt", headers=web.auth).json
    assert (model["keep_alive_s"], model["deployment"]["keep_alive_s"]) == ("auto", "auto")
    response = web.http.put("/api/v1/models/opt", json={**body, "keep_alive_s": "long"}, headers=web.auth)
    assert [error["pointer"] for error in response.json["errors"]] == ["/keep_alive_s"]
    assert response.status_code == 422


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("./opt", "absolute path"),
        ("file:///opt", "http://"),
        ("hf://facebook/opt", "http://"),
        ("http:///opt", "host"),
        ("s3://key:secret@bucket/opt", "credentials"),
        ("https://host:70000/opt", "port"),
        ("https://models.example/opt?token=1", "credentials"),
    ],
)
def test_a_source_that_cannot_be_is_refused_with_the_field_and_what_is_expected(
    web: Web, source: str, said: str
) -> None:
    response = web.http.put("/api/v1/models/a", json={"source": source}, headers=web.auth)
    assert response.status_code == 422
    (error,) = response.json["errors"]
    assert (error["pointer"], said in error["detail"]) == ("/source", True), error


def test_a_model_shows_what_serves_and_what_is_being_deployed_and_why_that_failed(web: Web) -> None:
    def model() -> dict[str, Any]:
        found: dict[str, Any] = web.http.get(f"/api/v1/models/{MODEL}", headers=web.auth).json
        return found

    body = {"source": "/second", "context": 32}
    started = web.http.put(f"/api/v1/models/{MODEL}", json=body, headers=web.auth)
    assert (model()["state"], model()["source"], model()["context"]) == ("ready", "/nowhere", CONTEXT)
    deployment = model()["deployment"]
    assert (deployment["operation"], deployment["state"]) == (started.json["id"], "pending")
    assert (deployment["source"], deployment["context"], deployment["error"]) == ("/second", 32, None)
    web.submit()
    now, error = from_ms(web.services.live.now_ms()), JobError(code=ErrorCode.CHECKPOINT_CORRUPT, message="broken")
    with web.services.ledger.transaction() as session:
        fail_operation(session, started.json["id"], attempt=0, error=error, now=now)
    assert (model()["state"], model()["error"], model()["deployment"]["state"]) == ("ready", None, "failed")
    assert model()["deployment"]["error"] == {"code": "checkpoint_corrupt", "message": "broken"}
    assert web.http.get("/api/v1/models", headers=web.auth).json["data"] == [model()]


def test_a_later_deployment_or_a_deletion_ends_the_one_before(web: Web) -> None:
    first, second = (
        web.http.put("/api/v1/models/a", json={"source": source}, headers=web.auth) for source in ("/a", "/b")
    )
    third = web.http.delete("/api/v1/models/a", headers=web.auth)
    ended = [web.http.get(response.headers["Location"], headers=web.auth).json for response in (first, second, third)]
    assert [operation["status"] for operation in ended] == ["failed", "failed", "pending"]
    assert [operation["error"]["code"] for operation in ended[:2]] == ["conflict", "conflict"]
    assert second.json["id"] in ended[0]["error"]["message"]
    assert "deleted" in ended[1]["error"]["message"]


def test_an_operation_that_has_ended_no_longer_asks_to_come_back(web: Web) -> None:
    started = web.http.put("/api/v1/models/a", json={"source": "/a"}, headers=web.auth)
    assert web.http.get(started.headers["Location"], headers=web.auth).headers["Retry-After"] == "1"
    now = from_ms(web.services.live.now_ms())
    with web.services.ledger.transaction() as session:
        attempt = begin_operation(session, started.json["id"], node="node0", now=now)
        assert attempt is not None
        succeed_operation(session, started.json["id"], attempt=attempt, result={"a": 1}, now=now)
    ended = web.http.get(started.headers["Location"], headers=web.auth)
    assert (ended.json["status"], ended.json["result"]) == ("succeeded", {"a": 1})
    assert "Retry-After" not in ended.headers
    assert [row["id"] for row in web.http.get("/api/v1/operations", headers=web.auth).json["data"]] == [
        ended.json["id"]
    ]


def test_a_model_that_is_deleted_takes_no_more_jobs(web: Web) -> None:
    response = web.http.delete(f"/api/v1/models/{MODEL}", headers=web.auth)
    assert (response.status_code, response.json["kind"]) == (202, "delete_model")
    job = web.http.post("/api/v1/jobs", json={"model": MODEL, "input": {"prompt": "one"}}, headers=web.auth)
    assert (job.status_code, job.json["code"]) == (409, "model_not_ready")
    assert web.http.delete(f"/api/v1/models/{MODEL}", headers=web.auth).status_code == 409
    assert web.http.delete("/api/v1/models/nobody", headers=web.auth).status_code == 404


def test_settings_that_make_no_sense_deploy_nothing(web: Web) -> None:
    for body in (
        {},
        {"source": "/a", "min_replicas": 3, "max_replicas": 2},
        {"source": "/a", "num_gpus": 0},
        {"source": "/a", "num_gpus": 65},
        {"source": "/a", "context": 0},
        {"source": "/a", "keep_alive_s": -1},
        {"source": "/a", "node": "../etc"},
        {"source": "models/opt"},
        {"source": "hf://facebook/opt"},
    ):
        assert web.http.put("/api/v1/models/a", json=body, headers=web.auth).status_code == 422, body
    assert web.http.put("/api/v1/models/a%20b", json={"source": "/a"}, headers=web.auth).status_code == 422
    assert [model["id"] for model in web.http.get("/api/v1/models", headers=web.auth).json["data"]] == [MODEL]


def test_nodes_show_their_gpus_and_what_is_loaded_there(web: Web) -> None:
    (node,) = web.http.get("/api/v1/nodes", headers=web.auth).json["data"]
    assert (node["id"], node["agent"]) == ("node0", "down")
    (gpu,) = node["gpus"]
    assert (gpu["id"], gpu["state"], gpu["reserved_bytes"]) == ("node0.0", "up", 1)
    assert [(replica["model"], replica["state"]) for replica in gpu["replicas"]] == [(MODEL, "ready")]


def test_a_placement_is_recorded_as_wanted(web: Web) -> None:
    path = f"/api/v1/placements/{DIGEST}/node1"
    response = web.http.put(path, json={"tier": "ssd"}, headers=web.auth)
    assert (response.status_code, response.json["desired"], response.json["actual"]) == (202, "ssd", None)
    assert len(web.http.get("/api/v1/placements", headers=web.auth).json["data"]) == 1
    unknown = web.http.put("/api/v1/placements/sha256:1/node1", json={"tier": "ssd"}, headers=web.auth)
    assert unknown.status_code == 404


def test_a_key_is_shown_once_and_useless_once_revoked(web: Web) -> None:
    body = {"name": "ci", "scopes": ["jobs:read"], "tenant": "team-a"}
    made = web.http.post("/api/v1/keys", json=body, headers=web.auth)
    assert made.status_code == 201, made.text
    listed = web.http.get("/api/v1/keys", headers=web.auth)
    assert made.json["id"] in [key["id"] for key in listed.json["data"]]
    assert made.json["key"] not in listed.text
    assert web.http.delete(f"/api/v1/keys/{made.json['id']}", headers=web.auth).status_code == 204
    assert web.http.delete(f"/api/v1/keys/{made.json['id']}", headers=web.auth).status_code == 404
    headers = {"Authorization": f"Bearer {made.json['key']}"}
    assert web.http.get("/api/v1/jobs", headers=headers).status_code == 401


def test_every_change_leaves_an_audit_row(web: Web) -> None:
    made = web.http.put("/api/v1/models/a", json={"source": "/a"}, headers=web.auth)
    web.http.delete("/api/v1/models/a", headers=web.auth)
    web.http.put(f"/api/v1/placements/{DIGEST}/node1", json={"tier": "ssd"}, headers=web.auth)
    key = web.http.post("/api/v1/keys", json={"name": "k", "scopes": ["jobs:read"]}, headers=web.auth).json
    web.http.delete(f"/api/v1/keys/{key['id']}", headers=web.auth)
    with web.services.ledger.reading() as session:
        rows = list_audit(session, PageRequest(limit=50)).rows
    actions = {row.action for row in rows}
    assert actions == {"model.put", "model.delete", "placement.put", "key.create", "key.revoke"}
    assert {row.actor for row in rows} == {web.api_key.split("_")[1]}
    assert made.headers["X-Request-ID"] in {row.request_id for row in rows}
    assert key["key"] not in str([row.after for row in rows])


def test_a_change_that_is_refused_leaves_none(web: Web) -> None:
    web.http.delete("/api/v1/models/nobody", headers=web.auth)
    with web.services.ledger.reading() as session:
        assert list_audit(session, PageRequest()).rows == ()
        assert [row.name for row in inventory.list_models(session)] == [MODEL]


def test_a_key_that_is_asked_for_again_is_the_same_one_and_is_not_shown_again(web: Web) -> None:
    body = {"name": "ci", "scopes": ["jobs:read"]}
    keyed = {**web.auth, "Idempotency-Key": "k"}
    first, again = (web.http.post("/api/v1/keys", json=body, headers=keyed) for _ in range(2))
    assert (again.status_code, again.json["id"], again.json["key"]) == (201, first.json["id"], None)
    assert (again.headers["Idempotency-Replayed"], again.headers["Cache-Control"]) == ("true", "no-store")
    other = web.http.post("/api/v1/keys", json={**body, "name": "cd"}, headers=keyed)
    assert (other.status_code, "another body" in other.json["detail"]) == (422, True)
    assert [key["name"] for key in web.http.get("/api/v1/keys", headers=web.auth).json["data"]].count("ci") == 1
    with web.services.ledger.reading() as session:
        assert [row.action for row in list_audit(session, PageRequest()).rows] == ["key.create"]


def test_a_scope_that_is_named_twice_is_refused(web: Web) -> None:
    body = {"name": "ci", "scopes": ["jobs:read", "jobs:read"]}
    response = web.http.post("/api/v1/keys", json=body, headers=web.auth)
    assert (response.status_code, response.json["detail"]) == (422, "/scopes: must not name a scope twice")


def test_work_that_is_asked_for_again_is_started_once(web: Web) -> None:
    for ask in (
        lambda headers: web.http.put("/api/v1/models/a", json={"source": "/a"}, headers=headers),
        lambda headers: web.http.delete("/api/v1/models/a", headers=headers),
    ):
        keyed = {**web.auth, "Idempotency-Key": "k"}
        first, again = ask(keyed), ask(keyed)
        assert (first.status_code, again.status_code, again.json["id"]) == (202, 202, first.json["id"])
        assert again.headers["Idempotency-Replayed"] == "true"
    assert len(web.http.get("/api/v1/operations", headers=web.auth).json["data"]) == 2
    with web.services.ledger.reading() as session:
        assert len(list_audit(session, PageRequest()).rows) == 2
