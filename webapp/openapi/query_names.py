"""Names in the query string of a route that takes none are refused, like those that a route with some does not know."""

from __future__ import annotations

from typing import Final

from flask import request

from webapp.incoming import read_query
from webapp.openapi.routes import ROUTES
from webapp.schemas.jobs import Query

#: Where it is so; probes and OpenAI's clients may say what they like.
REST_PREFIX: Final = "/api/v1/"


def check_query_names() -> None:
    """Look at this request before its view does; raises InvalidFieldsError."""
    form = ROUTES.get(str(request.endpoint))
    if form is not None and form.query is None and request.path.startswith(REST_PREFIX):
        read_query(Query)
