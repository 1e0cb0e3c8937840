"""What is refused, with which status and code, before anything is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sllm_tasks.ledger.keys import Scope
from tests.support.web import MODEL, Web, add_key, add_model

_GOOD: dict[str, Any] = {"model": MODEL, "input": {"prompt": "one"}}

_NAME_OF_MODEL = "1 to 128 of A-Z a-z 0-9 . _ : / - beginning with a letter or a digit"


def _with_params(**params: Any) -> dict[str, Any]:
    return {**_GOOD, "params": params}


_REFUSED = {
    "unknown model": ({**_GOOD, "model": "nobody"}, "model_not_found"),
    "name that is no name": ({**_GOOD, "model": "a b\n"}, "invalid_request"),
    "prompt longer than the context": ({**_GOOD, "input": {"prompt": "one " * 64}}, "context_length_exceeded"),
    "output longer than the context": (_with_params(max_tokens=63), "context_length_exceeded"),
    "number for text": ({**_GOOD, "model": 1}, "invalid_request"),
    "text for number": (_with_params(max_tokens="3"), "invalid_request"),
    "boolean for number": (_with_params(max_tokens=True), "invalid_request"),
    "fraction for count": (_with_params(max_tokens=1.5), "invalid_request"),
    "list for object": ([], "invalid_request"),
    "unknown field": ({**_GOOD, "colour": "red"}, "invalid_request"),
    "unknown parameter": (_with_params(heat=1), "invalid_request"),
    "no input": ({"model": MODEL}, "invalid_request"),
    "both inputs": (
        {**_GOOD, "input": {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}},
        "invalid_request",
    ),
    "empty prompt": ({**_GOOD, "input": {"prompt": ""}}, "invalid_request"),
    "no messages": ({**_GOOD, "input": {"messages": []}}, "invalid_request"),
    "NaN": (_with_params(temperature=float("nan")), "invalid_request"),
    "infinity": (_with_params(temperature=float("inf")), "invalid_request"),
    "NaN in metadata": ({**_GOOD, "metadata": {"a": float("nan")}}, "invalid_request"),
    "negative count": (_with_params(max_tokens=-1), "invalid_request"),
    "zero count": (_with_params(max_tokens=0), "invalid_request"),
    "huge count": (_with_params(max_tokens=10**30), "invalid_request"),
    "seed of more than 63 bits": (_with_params(seed=2**63), "invalid_request"),
    "priority out of range": ({**_GOOD, "priority": 10}, "invalid_request"),
    "deadline in the past": ({**_GOOD, "deadline_s": -1}, "invalid_request"),
    "NUL": ({**_GOOD, "input": {"prompt": "a\0b"}}, "invalid_request"),
    "NUL in metadata": ({**_GOOD, "metadata": {"a": "\0"}}, "invalid_request"),
    "too many stops": (_with_params(stop=["a"] * 100_000), "invalid_request"),
    "too much metadata": ({**_GOOD, "metadata": {str(i): "" for i in range(17)}}, "invalid_request"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_a_body_that_says_something_wrong_is_refused_with_422(web: Web, case: str) -> None:
    body, code = _REFUSED[case]
    response = web.http.post("/api/v1/jobs", data=json.dumps(body), content_type="application/json", headers=web.auth)
    assert (response.status_code, response.json["code"]) == (422, code), response.text
    assert response.mimetype == "application/problem+json"
    assert response.json["request_id"] == response.headers["X-Request-ID"]
    assert web.http.get("/api/v1/jobs", headers=web.auth).json["data"] == []


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": }', b"\xff\xfe", b'{"model": "\\ud800"', b"[" * 5000])
def test_a_body_that_is_not_json_is_refused_with_400(web: Web, body: bytes) -> None:
    response = web.http.post("/api/v1/jobs", data=body, content_type="application/json", headers=web.auth)
    assert (response.status_code, response.json["code"]) == (400, "malformed_body")


def test_a_field_error_points_at_the_field_and_never_repeats_its_value(web: Web) -> None:
    body = {**_GOOD, "params": {"max_tokens": "SECRET", "stop": ["ok", ""]}, "SECRETS": "SECRET"}
    response = web.http.post("/api/v1/jobs", json=body, headers=web.auth)
    assert [error["pointer"] for error in response.json["errors"]] == [
        "/params/max_tokens",
        "/params/stop/1",
        "/SECRETS",
    ]
    assert '"SECRET"' not in response.text


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"input": {"prompt": "a\ud800b"}}, "/input/prompt"),
        ({"input": {"messages": [{"role": "user", "content": "\udfff"}]}}, "/input/messages/0/content"),
        ({"metadata": {"a/b": "\ud800"}}, "/metadata/a~1b"),
        ({"metadata": {"\ud800": "a"}}, "/metadata"),
    ],
)
def test_a_lone_surrogate_is_refused_where_it_is(web: Web, fields: dict[str, Any], pointer: str) -> None:
    body = json.dumps({**_GOOD, **fields})
    response = web.http.post("/api/v1/jobs", data=body, content_type="application/json", headers=web.auth)
    assert (response.status_code, response.json["code"]) == (422, "invalid_request")
    assert [error["pointer"] for error in response.json["errors"]] == [pointer]
    # A pair of surrogates is a character.
    pair = web.http.post("/api/v1/jobs", json={**_GOOD, "metadata": {"a": "\U0001f600"}}, headers=web.auth)
    assert pair.status_code == 202


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"model": ""}, f"/model: must be {_NAME_OF_MODEL}, found an empty text"),
        ({"input": {"prompt": ""}}, "/input/prompt: must have at least 1 character, found an empty text"),
        ({"input": {"messages": []}}, "/input/messages: must have at least 1 item, found an empty list"),
        ({"input": {"prompt": 5}}, "/input/prompt: must be text, found a number"),
        ({"input": {"prompt": ["a"]}}, "/input/prompt: must be text, found a list of 1 item"),
        ({"params": {"temperature": 9}}, "/params/temperature: must be at most 2, found 9"),
        ({"params": {"temperature": "hot"}}, "/params/temperature: must be a number, found a text of 3 characters"),
        ({"params": {"top_p": 0}}, "/params/top_p: must be more than 0, found 0"),
        ({"params": {"max_tokens": 1.5}}, "/params/max_tokens: must be a whole number, found a number"),
        ({"params": {"top_k": 10**30}}, "/params/top_k: must be at most 1000000, found a number of more than 64 bits"),
        ({"params": {"ignore_eos": None}}, "/params/ignore_eos: must be true or false, found null"),
        ({"params": []}, "/params: must be an object, found an empty list"),
        ({"class": "fast"}, "/class: must be 'interactive' or 'batch', found a text of 4 characters"),
        ({"colour": "red"}, "/colour: is not known here"),
        ({"input": {}}, "/input: give one of prompt, messages and prompt_ids"),
    ],
)  # fmt: skip
def test_a_field_error_says_what_was_expected_and_what_was_found(web: Web, fields: dict[str, Any], detail: str) -> None:
    response = web.http.post("/api/v1/jobs", json={**_GOOD, **fields}, headers=web.auth)
    assert (response.status_code, response.json["detail"]) == (422, detail)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_of_another_type_is_refused_with_415(web: Web, kind: str) -> None:
    response = web.http.post("/api/v1/jobs", data=json.dumps(_GOOD), content_type=kind, headers=web.auth)
    assert (response.status_code, response.json["code"]) == (415, "unsupported_media_type")


def test_a_body_of_more_than_4_mib_is_refused_with_413(web: Web) -> None:
    body = json.dumps({**_GOOD, "input": {"prompt": "x" * 2**22}})
    response = web.http.post("/api/v1/jobs", data=body, content_type="application/json", headers=web.auth)
    assert (response.status_code, response.json["code"]) == (413, "body_too_large")


def test_a_path_or_method_that_does_not_exist_is_a_problem_too(web: Web) -> None:
    unknown = web.http.get("/api/v1/nothing")
    assert (unknown.status_code, unknown.json["code"]) == (404, "not_found")
    wrong = web.http.patch("/api/v1/jobs")
    assert (wrong.status_code, wrong.json["code"]) == (405, "method_not_allowed")
    assert {"GET", "POST"} <= set(wrong.headers["Allow"].split(", "))


@pytest.mark.parametrize(
    "header", ["", "Basic abc", "Bearer", "Bearer sllm_x", "Bearer sllm_ключ", "Bearer " + "a" * 5000]
)
def test_a_key_that_is_none_is_refused_with_401(web: Web, header: str) -> None:
    headers = {"Authorization": header.encode().decode("latin-1")} if header else {}
    response = web.http.post("/api/v1/jobs", json=_GOOD, headers=headers)
    assert (response.status_code, response.json["code"]) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_without_the_scope_is_refused_with_403(web: Web) -> None:
    reader = {"Authorization": f"Bearer {add_key(web.services.ledger, Scope.JOBS_READ)}"}
    assert web.http.get("/api/v1/jobs", headers=reader).status_code == 200
    for method, path in [("POST", "/api/v1/jobs"), ("PUT", "/api/v1/models/a"), ("GET", "/api/v1/keys")]:
        response = web.http.open(path, method=method, json=_GOOD, headers=reader)
        assert (response.status_code, response.json["code"]) == (403, "forbidden")


def test_a_model_that_is_being_deployed_takes_no_jobs_yet(web: Web) -> None:
    add_model(web.services.ledger, "soon", ready=False)
    response = web.http.post("/api/v1/jobs", json={**_GOOD, "model": "soon"}, headers=web.auth)
    assert (response.status_code, response.json["code"]) == (503, "model_not_ready")
    assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "status=happy",
        "colour=red",
        "created_after=yesterday",
        "created_after=0.5",
        "created_after=9999-12-31T23:59:59-10:00",
        "created_after=0001-01-01T00:00:00%2B10:00",
        "after=nonsense",
        "after=job_1",
        "after=op_01m7xzzzzzzzzzzzzzzzzzzzzz",
        "after=",
        "limit=1&limit=2",
        "status=queued&limit=1&status=failed",
    ],
)
def test_a_query_that_says_something_wrong_is_refused_with_422(web: Web, query: str) -> None:
    response = web.http.get(f"/api/v1/jobs?{query}", headers=web.auth)
    assert (response.status_code, response.json["code"]) == (422, "invalid_request")
    assert response.json["errors"][0]["pointer"] == "?" + query.split("=", maxsplit=1)[0]


@pytest.mark.parametrize(
    "path", ["jobs/job_01m7xzzzzzzzzzzzzzzzzzzzzz", "nodes", f"models/{MODEL}", "openapi.json", "jobs/x/events"]
)
def test_a_name_that_a_route_does_not_know_is_refused_in_its_query(web: Web, path: str) -> None:
    response = web.http.get(f"/api/v1/{path}?wait=10", headers=web.auth)
    assert (response.status_code, response.json["code"]) == (422, "invalid_request")
    assert response.json["errors"][0]["pointer"] == "?wait"


def test_probes_may_be_asked_with_any_query(web: Web) -> None:
    assert web.http.get("/healthz?now=1").status_code == 200
