"""Rules that hold for every route, also for those that are added later: the routes are asked for, not listed here."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator

import pytest

from sllm_tasks.ledger.keys import Scope
from tests.support.web import MODEL, Web, add_key

_READING = frozenset({Scope.JOBS_READ, Scope.MODELS_READ, Scope.ADMIN_READ})
#: What is asked by POST and changes nothing.
_QUESTIONS = frozenset({"/api/v1/scheduler/explain"})
#: What belongs to a tenant; the rest is the cluster's, and takes a scope.
_OWNED = ("job_id", "file_id", "batch_id")


def _routes(web: Web) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Method, path with its parameters in angle brackets, and their names, of all routes that ask for an API key."""
    for rule in web.http.application.url_map.iter_rules():
        if rule.rule.startswith(("/api/v1/", "/v1/")) and "openapi" not in rule.rule:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                path = re.sub(r"<int:\w+>", "0", rule.rule.replace("<path:", "<"))
                yield method, path, frozenset(rule.arguments)


def _ask(web: Web, method: str, path: str, key: str | None) -> int:
    body = {"enabled": False} if method == "PATCH" else {}
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return web.http.open(path, method=method, json=None if method == "GET" else body, headers=headers).status_code


def test_without_a_key_nothing_is_answered(web: Web) -> None:
    open_routes = [(method, path) for method, path, _ in _routes(web) if _ask(web, method, path, None) != 401]
    assert open_routes == []


def test_a_key_that_may_only_read_changes_nothing(web: Web) -> None:
    key = add_key(web.services.ledger, *_READING)
    changes = [(method, path) for method, path, _ in _routes(web) if method != "GET" and path not in _QUESTIONS]
    assert len(changes) > 30
    assert [route for route in changes if _ask(web, *route, key) != 403] == []


@pytest.fixture
def owned(web: Web) -> dict[str, str]:
    """Something of each kind that tenant `default` has, by the name that routes give to its id."""
    job_id = web.submit()
    line = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"model": MODEL, "prompt": "one"}}
    upload = {"purpose": "batch", "file": (io.BytesIO(json.dumps(line).encode()), "lines.jsonl")}
    file_id = web.http.post("/v1/files", data=upload, headers=web.auth).json["id"]
    wanted = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h"}
    batch_id = web.http.post("/v1/batches", json=wanted, headers=web.auth).json["id"]
    return {"job_id": job_id, "file_id": file_id, "batch_id": batch_id}


def test_what_another_tenant_has_does_not_exist_whatever_is_asked_about_it(web: Web, owned: dict[str, str]) -> None:
    stranger = add_key(web.services.ledger, tenant="other")
    answers = {}
    for method, path, names in _routes(web):
        # An id that is put is the caller's own choice, and names a job of the caller's tenant.
        if names & set(_OWNED) and method != "PUT":
            theirs = re.sub(r"<(\w+)>", lambda name: owned.get(name[1], "unknown"), path)
            answers[method, path] = _ask(web, method, theirs, stranger)
    assert len(answers) > 12
    assert {route: status for route, status in answers.items() if status != 404} == {}
    assert web.http.get(f"/api/v1/jobs/{owned['job_id']}", headers=web.auth).json["status"] == "queued"


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/v1/files", "/v1/batches"])
def test_lists_hold_nothing_of_another_tenant(web: Web, owned: dict[str, str], path: str) -> None:
    stranger = {"Authorization": f"Bearer {add_key(web.services.ledger, tenant='other')}"}
    assert owned
    assert web.http.get(path, headers=web.auth).json["data"]
    assert web.http.get(path, headers=stranger).json["data"] == []
