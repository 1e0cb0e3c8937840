"""Makes the document: paths, methods and summaries from the application's views, the rest from `ROUTES`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from itertools import chain
from typing import Any, Final

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

import sllm_tasks
from webapp.auth import GUARDED
from webapp.openai.problems import PREFIX as OPENAI_PREFIX
from webapp.openapi.answers import InvalidFields, Problem
from webapp.openapi.openai_answers import OpenAiError
from webapp.openapi.query_names import REST_PREFIX
from webapp.openapi.routes import ROUTES, Bytes, Content, ListOf, RouteForm, Streamed

# Any: JSON Schema.
_Json = dict[str, Any]

#: Not described: the admin UI, and its files.
_HIDDEN: Final = ("/admin", "/static")
_REFERENCE: Final = "#/components/schemas/{model}"
_HEADERS: Final[Mapping[str, str]] = {
    "Idempotency-Key": "Sent again with the same key, the request takes effect once.",
    "Prefer": "`wait=n`: answer when there is news, after at most n seconds.",
    "If-None-Match": "The `ETag` of an earlier answer.",
    "Last-Event-ID": "Go on after this event.",
    "traceparent": "Kept with the job (W3C Trace Context).",
}
#: `<name>` or `<converter:name>` in a rule.
_VARIABLE: Final = re.compile(r"<(?:[^:>]+:)?([^>]+)>")
_METHODS: Final = ("GET", "PUT", "POST", "DELETE", "PATCH")


def described_rules(app: Flask) -> list[Rule]:
    """The rules that the document is about: all but those of the admin UI."""
    rules = (rule for rule in app.url_map.iter_rules() if rule.rule != "/" and not rule.rule.startswith(_HIDDEN))
    return sorted(rules, key=lambda rule: rule.rule)


def make_document(app: Flask) -> _Json:
    """Describe an application; a view that `ROUTES` does not know is left out, and a test sees that there is none."""
    forms = [(rule, ROUTES[rule.endpoint]) for rule in described_rules(app) if rule.endpoint in ROUTES]
    schemas, components = models_json_schema(
        list(dict.fromkeys(chain.from_iterable(_models_of(form) for _, form in forms))),
        ref_template=_REFERENCE,
    )
    references: dict[object, _Json] = {model: schema for (model, _), schema in schemas.items()}
    definitions = components["$defs"]
    paths: dict[str, _Json] = {}
    for rule, form in forms:
        for method in _METHODS:
            if method in (rule.methods or ()):
                operation = _Operation(app, rule, form, references, definitions)
                paths.setdefault(operation.path, {})[method.lower()] = operation.described()
    return {
        "openapi": "3.1.0",
        "info": {"title": "sllm-tasks", "version": sllm_tasks.__version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
            "headers": {"X-Request-ID": {"description": "The id of the request.", "schema": {"type": "string"}}},
        },
    }


def _models_of(form: RouteForm) -> Iterator[tuple[type[BaseModel], Any]]:
    for content in form.answers.values():
        match content:
            case ListOf(model) | Streamed(model):
                yield model, "serialization"
            case type():
                yield content, "serialization"
    for taken in (form.body, form.query):
        if taken is not None:
            yield taken, "validation"
    yield from ((error, "serialization") for error in (Problem, InvalidFields, OpenAiError))


class _Operation:
    """One method of one path."""

    def __init__(
        self,
        app: Flask,
        rule: Rule,
        form: RouteForm,
        references: Mapping[object, _Json],
        definitions: Mapping[str, _Json],
    ) -> None:
        self._view = app.view_functions[rule.endpoint]
        self._rule = rule
        self._form = form
        self._references = references
        self._definitions = definitions
        self._scope = GUARDED.get(self._view)
        self._is_openai = rule.rule.startswith(OPENAI_PREFIX)

    @property
    def path(self) -> str:
        """The path as OpenAPI writes it."""
        return _VARIABLE.sub(r"{\1}", self._rule.rule)

    def described(self) -> _Json:
        """The operation."""
        operation: _Json = {
            "operationId": self._rule.endpoint,
            "tags": [self._rule.endpoint.partition(".")[0]],
            "summary": (self._view.__doc__ or "").strip().partition("\n")[0],
            "parameters": [*self._path_parameters(), *self._query_parameters(), *self._header_parameters()],
            "responses": {str(status): answer for status, answer in sorted(self._responses())},
        }
        if self._form.body is not None:
            operation["requestBody"] = {"required": True, "content": self._body(self._form.body)}
        if self._scope is not None:
            operation["security"] = [{"key": []}]
            operation["description"] = f"Needs a key with the scope `{self._scope}`."
        return operation

    def _body(self, model: type[BaseModel]) -> _Json:
        if not self._form.is_upload:
            return {"application/json": {"schema": self._references[model]}}
        fields = self._definition(model)
        file = {"type": "string", "format": "binary"}
        schema = {
            **fields,
            "properties": {**fields["properties"], "file": file},
            "required": [*fields["required"], "file"],
        }
        return {"multipart/form-data": {"schema": schema}}

    def _definition(self, model: type[BaseModel]) -> _Json:
        name = self._references[model]["$ref"].rpartition("/")[2]
        definition: _Json = self._definitions[name]
        return definition

    def _path_parameters(self) -> Iterator[_Json]:
        for name in sorted(self._rule.arguments):
            yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}

    def _query_parameters(self) -> Iterator[_Json]:
        if self._form.query is not None:
            for field, schema in self._definition(self._form.query)["properties"].items():
                yield {"name": field, "in": "query", "required": False, "schema": schema}

    def _header_parameters(self) -> Iterator[_Json]:
        for name in self._form.headers:
            yield {
                "name": name,
                "in": "header",
                "required": False,
                "description": _HEADERS[name],
                "schema": {"type": "string"},
            }

    def _responses(self) -> Iterator[tuple[int, _Json]]:
        for status, content in self._form.answers.items():
            yield status, _response(status, self._content(content))
        for status in self._errors() - self._form.answers.keys():
            names_fields = status == HTTPStatus.UNPROCESSABLE_ENTITY
            model = OpenAiError if self._is_openai else InvalidFields if names_fields else Problem
            media_type = "application/json" if self._is_openai else "application/problem+json"
            yield status, _response(status, {media_type: {"schema": self._references[model]}})

    def _content(self, content: Content) -> _Json:
        match content:
            case None:
                return {}
            case Bytes(media_type):
                return {media_type: {"schema": {}}}
            case ListOf(item):
                return {"application/json": {"schema": _page_of(self._references[item])}}
            case Streamed(whole):
                return {"application/json": {"schema": self._references[whole]}, "text/event-stream": {"schema": {}}}
            case _:
                return {"application/json": {"schema": self._references[content]}}

    def _errors(self) -> frozenset[int]:
        """What can go wrong, by what the route takes."""
        found = set(self._form.errors)
        if self._rule.arguments:
            found.add(404)
        if self._form.body is not None:
            found |= {400, 413} | (set() if self._form.is_upload else {415})
        if self._rule.rule.startswith(REST_PREFIX):
            # A query string has names that no route knows.
            found.add(422)
        if self._form.query is not None and self._is_openai:
            found.add(400)
        if self._scope is not None:
            found |= {401, 403, 429, 503}
        return frozenset(found)


def _response(status: int, content: _Json) -> _Json:
    response: _Json = {
        "description": HTTPStatus(status).phrase,
        "headers": {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}},
    }
    return {**response, "content": content} if content else response


def _page_of(item: _Json) -> _Json:
    identity = {"type": ["string", "integer", "null"]}
    return {
        "type": "object",
        "required": ["object", "data", "first_id", "last_id", "has_more"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": item},
            "first_id": identity,
            "last_id": identity,
            "has_more": {"type": "boolean"},
        },
    }
