"""The description of the API covers every route, and what is sent by it is answered by it."""

from __future__ import annotations

import json
import re
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from tests.support.web import Web
from webapp.openapi.document import described_rules
from webapp.openapi.routes import ROUTES

#: Not held: what no schema can say, such as that a model exists or a prompt fits into its context.
_CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


def document(web: Web) -> dict[str, Any]:
    response = web.http.get("/api/v1/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json
    return found


def test_every_route_is_described_and_no_other(web: Web) -> None:
    endpoints = {rule.endpoint for rule in described_rules(web.http.application)}
    assert endpoints == ROUTES.keys()
    described = {one["operationId"] for methods in document(web)["paths"].values() for one in methods.values()}
    assert described == ROUTES.keys()


def test_every_path_allows_the_methods_that_are_described_and_no_other(web: Web) -> None:
    for path, methods in document(web)["paths"].items():
        allowed = web.http.options(re.sub(r"\{[^}]*\}", "0", path), headers=web.auth).headers["Allow"].split(", ")
        assert set(allowed) - {"OPTIONS", "HEAD"} == {method.upper() for method in methods}, path


def test_every_reference_of_the_description_leads_somewhere(web: Web) -> None:
    made = document(web)
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(made))
    assert set(names) <= made["components"]["schemas"].keys()


def test_the_description_can_be_read_as_a_page_without_scripts(web: Web) -> None:
    response = web.http.get("/api/v1/openapi.html")
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "<script" not in response.text
    assert "POST /api/v1/jobs" in response.text


def test_generated_requests_are_answered_as_described(web: Web) -> None:
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", web.http.application)
    checks = [CHECKS.get_one(name) for name in _CHECKS]
    for found in schema.get_all_operations():
        operation = found.ok()
        # The others have nothing but a path to be generated; `scripts/check_api` sends those, and many more, as well.
        if operation.body or operation.query:
            send_generated(operation, checks, web.auth)


def send_generated(operation: Any, checks: list[Any], auth: dict[str, str]) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=2, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True)
    def send(case: Any) -> None:
        case.call_and_validate(checks=checks, headers=auth)

    send()
