"""`/api/v1/openapi.json` and `/api/v1/openapi.html`: the description of the API, for programs and for people."""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response, current_app, jsonify, render_template

from webapp.admin.blueprint import PAGE_HEADERS
from webapp.openapi.document import make_document

blueprint = Blueprint("openapi", __name__, url_prefix="/api/v1")

#: Where the application keeps the document: it does not change while it runs.
_MADE: Final = "sllm.openapi"


@blueprint.get("/openapi.json")
def get_document() -> Response:
    """Describe the API in OpenAPI 3.1."""
    return jsonify(_document())


@blueprint.get("/openapi.html")
def show_document() -> Response:
    """Show the description as a page."""
    return Response(render_template("openapi.html", document=_document()), headers=PAGE_HEADERS)


def _document() -> dict[str, Any]:
    made: dict[str, Any] | None = current_app.extensions.get(_MADE)
    if made is None:
        made = current_app.extensions[_MADE] = make_document(current_app)
    return made
