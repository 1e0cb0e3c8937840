"""Every answer that a test gets is held against the description of the API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jsonschema_rs
from flask import Flask, Response, request

from webapp.openapi.document import described_rules, make_document

_made: list[dict[str, Any]] = []


@contextmanager
def described_answers(app: Flask) -> Iterator[None]:
    """Fail at the end of the block if an answer of the application was not as described."""
    if not _made:
        _made.append(make_document(app))
    endpoints, wrong = {rule.endpoint for rule in described_rules(app)}, list[str]()

    def check(response: Response) -> Response:
        if request.endpoint is not None and request.endpoint in endpoints and request.method != "OPTIONS":
            wrong.extend(_differences(request.endpoint, response))
        return response

    app.after_request(check)
    yield
    assert not wrong, wrong


def _differences(endpoint: str, response: Response) -> Iterator[str]:
    operation = _operations()[endpoint]
    described = operation["responses"].get(str(response.status_code))
    if response.status_code == 500:
        return
    if described is None:
        yield f"{endpoint} answers {response.status_code}"
    elif response.mimetype not in described.get("content", {response.mimetype: {}}):
        yield f"{endpoint} answers {response.status_code} as {response.mimetype}"
    elif response.is_json and not response.is_streamed and response.data:
        for error in _validator(endpoint, response.status_code, response.mimetype).iter_errors(response.json):
            yield f"{endpoint} answers {response.status_code}: {list(error.instance_path)}: {error.message}"


@cache
def _operations() -> dict[str, Any]:
    return {
        operation["operationId"]: operation
        for operations in _made[0]["paths"].values()
        for operation in operations.values()
    }


@cache
def _validator(endpoint: str, status: int, media_type: str) -> Any:
    schema = _operations()[endpoint]["responses"][str(status)]["content"][media_type]["schema"]
    return jsonschema_rs.validator_for({**schema, "components": _made[0]["components"]})
