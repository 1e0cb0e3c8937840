"""Tenants over REST: shares and limits."""

from __future__ import annotations

from typing import Any

import pytest

from sllm_tasks.ledger.audit import list_audit
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.queues import TenantRules, tenant_rules
from tests.support.web import MODEL, Web, add_key

ONE = "/api/v1/tenants/flood"
LIMITS = {"weight": 2.0, "max_queued_jobs": 1, "max_running_jobs": 3}


def test_what_is_put_for_a_tenant_holds_and_is_listed_and_audited(web: Web) -> None:
    response = web.http.put(ONE, json=LIMITS, headers=web.auth)
    assert response.status_code == 200, response.text
    assert {name: response.json[name] for name in LIMITS} == LIMITS
    listed = web.http.get("/api/v1/tenants", headers=web.auth).json["data"]
    assert [tenant["id"] for tenant in listed] == ["default", "flood"]
    with web.services.ledger.reading() as session:
        assert tenant_rules(session) == {"flood": TenantRules(weight=2.0, max_queued_jobs=1, max_running_jobs=3)}
        assert [row.action for row in list_audit(session, PageRequest(), target="flood").rows] == ["tenant.put"]


def test_what_is_left_out_goes_back_to_its_default(web: Web) -> None:
    web.http.put(ONE, json=LIMITS, headers=web.auth)
    response = web.http.put(ONE, json={}, headers=web.auth)
    assert [response.json[name] for name in LIMITS] == [1.0, None, None]


def test_a_tenant_that_may_have_no_waiting_jobs_has_none(web: Web) -> None:
    web.http.put(ONE, json={"max_queued_jobs": 0}, headers=web.auth)
    key = add_key(web.services.ledger, tenant="flood")
    body = {"model": MODEL, "input": {"prompt": "one"}}
    response = web.http.post("/api/v1/jobs", json=body, headers={"Authorization": f"Bearer {key}"})
    assert (response.status_code, response.json["code"]) == (429, "quota_exceeded")


@pytest.mark.parametrize(
    "body", [{"weight": 0}, {"weight": "2"}, {"max_running_jobs": 0}, {"max_queued_jobs": -1}, {"max_jobs": 1}]
)
def test_limits_that_make_no_sense_are_refused(web: Web, body: dict[str, Any]) -> None:
    assert web.http.put(ONE, json=body, headers=web.auth).status_code == 422


def test_setting_limits_takes_the_right_to_write(web: Web) -> None:
    reader = add_key(web.services.ledger, Scope.ADMIN_READ)
    response = web.http.put(ONE, json=LIMITS, headers={"Authorization": f"Bearer {reader}"})
    assert response.status_code == 403
