"""What all answers of the admin UI share: the blueprint, headers that browsers obey, errors as pages."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Final

from flask import Blueprint, Response, g, redirect, render_template, request, url_for

from sllm_tasks.errors import NotFoundError, SllmError
from webapp.errors import FieldError, InvalidFieldsError
from webapp.field_errors import pointer_to
from webapp.problems import status_of

logger = logging.getLogger(__name__)

blueprint = Blueprint("admin", __name__, url_prefix="/admin")

#: Of every page that a browser shows.
PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # A login link is in a URL. Not `no-referrer`: with that, browsers hide where a form of ours comes from.
    "Referrer-Policy": "same-origin",
    # Pages show prompts; and a page that the back button brings would carry a token of a session that has ended.
    "Cache-Control": "no-store",
}


@blueprint.before_request
def _check_query() -> None:
    # Pages look for what is in their query string as it is, and PostgreSQL for no text with U+0000.
    for name, text in request.args.items(multi=True):
        if "\0" in text:
            error = FieldError(pointer=pointer_to((name,), "?"), detail="must not contain U+0000", code="value_error")
            raise InvalidFieldsError((error,))


@blueprint.after_request
def _add_headers(response: Response) -> Response:
    for name, value in PAGE_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


@blueprint.errorhandler(SllmError)
def _show_error(error: SllmError) -> Response:
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s %s %s failed", g.request_id, request.method, request.path, exc_info=error)
    if status is HTTPStatus.UNAUTHORIZED and "live" not in request.args:
        here = request.full_path.rstrip("?") if request.method == "GET" else None
        return _as_response(redirect(url_for("admin.show_sign_in", next=here), HTTPStatus.SEE_OTHER))
    text = "something has failed; the log says what" if status is HTTPStatus.INTERNAL_SERVER_ERROR else str(error)
    return Response(render_template("admin/error.html", title=status.phrase, message=text, code=error.code), status)


@blueprint.get("/<path:rest>")
def _nothing_here(rest: str) -> Response:
    raise NotFoundError(f"there is no page /admin/{rest}")


def see_other(endpoint: str, **values: str) -> Response:
    """Send the browser to another page after a change, so that reloading does not repeat it."""
    # Spelled out because the other arguments of `url_for` are no text.
    where = url_for(f"admin.{endpoint}", _anchor=None, _method=None, _scheme=None, _external=None, **values)
    return _as_response(redirect(where, HTTPStatus.SEE_OTHER))


def _as_response(redirection: object) -> Response:
    if not isinstance(redirection, Response):
        raise TypeError("Flask's own redirect answers with Flask's own response")
    return redirection
