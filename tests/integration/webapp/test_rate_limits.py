"""What a key may do in a minute."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.web import MODEL, Web, add_key

JOB = {"model": MODEL, "input": {"prompt": "one two"}, "params": {"max_tokens": 10}}
COMPLETION = {"model": MODEL, "prompt": "one two", "max_tokens": 10}


def limited(web: Web, **limits: int) -> dict[str, str]:
    """Headers of a key whose tenant has these limits."""
    assert web.http.put("/api/v1/tenants/limited", json=limits, headers=web.auth).status_code == 200
    return {"Authorization": f"Bearer {add_key(web.services.ledger, tenant='limited')}"}


def test_requests_above_the_limit_are_refused_and_told_when_to_come_back(web: Web) -> None:
    auth = limited(web, max_requests_per_min=2)
    first = web.http.get("/api/v1/jobs", headers=auth)
    assert first.headers["RateLimit-Policy"] == '"requests";q=2;w=60'
    assert first.headers["RateLimit"] == '"requests";r=1;t=30'
    web.http.get("/api/v1/jobs", headers=auth)
    refused = web.http.get("/api/v1/jobs", headers=auth)
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert 0 < int(refused.headers["Retry-After"]) <= 30
    other_key = {"Authorization": f"Bearer {add_key(web.services.ledger, tenant='limited')}"}
    assert web.http.get("/api/v1/jobs", headers=other_key).status_code == 200


def test_tokens_of_prompt_and_output_count_before_a_job_is_accepted(web: Web) -> None:
    auth = limited(web, max_tokens_per_min=20)
    assert web.http.post("/api/v1/jobs", json=JOB, headers=auth).status_code == 202
    refused = web.http.post("/api/v1/jobs", json=JOB, headers=auth)
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert '"tokens";r=7;' in refused.headers["RateLimit"]
    assert len(web.http.get("/api/v1/jobs", headers=auth).json["data"]) == 1


def test_openais_clients_hear_of_limits_in_openais_words(web: Web) -> None:
    auth = limited(web, max_requests_per_min=5, max_tokens_per_min=20)
    web.http.post("/api/v1/jobs", json=JOB, headers=auth)
    refused = web.http.post("/v1/completions", json=COMPLETION, headers=auth)
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    told = {name: refused.headers[f"x-ratelimit-{name}"] for name in ("limit-requests", "remaining-tokens")}
    assert told == {"limit-requests": "5", "remaining-tokens": "7"}
    assert refused.headers["x-ratelimit-reset-tokens"].endswith("s")


def test_a_key_without_limits_hears_of_none(web: Web) -> None:
    assert "RateLimit" not in web.http.get("/api/v1/jobs", headers=web.auth).headers


def test_nothing_is_limited_while_the_live_state_is_away(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = limited(web, max_requests_per_min=1)

    def away(*_: Any, **__: Any) -> None:
        from sllm_tasks.errors import UnavailableError

        raise UnavailableError("away")

    monkeypatch.setattr(type(web.services.live.rates), "take", away)
    assert [web.http.get("/api/v1/jobs", headers=auth).status_code for _ in range(3)] == [200] * 3
