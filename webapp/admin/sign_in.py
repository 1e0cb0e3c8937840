"""Signing in and out, and the page behind a login link, where a user chooses a password."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from flask import Response, render_template, request, url_for

from sllm_tasks.bootstrap import DEFAULT_TENANT
from sllm_tasks.errors import NotFoundError
from sllm_tasks.ledger import login_limits, user_sessions, users
from sllm_tasks.ledger.passwords import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH, hash_password, is_password
from sllm_tasks.ledger.states import Role
from webapp.admin.access import check_origin, give_cookie, needs, person, take_cookie
from webapp.admin.blueprint import blueprint, see_other
from webapp.audited import audited
from webapp.services import services

#: One answer for every reason, so that nobody learns which names exist.
_REFUSED = "Name or password is wrong."
_TOO_MANY = "Too many wrong passwords; try again in a quarter of an hour."


@dataclass(frozen=True, slots=True)
class _Signing:
    """Whoever is about to be signed in, as the audit trail calls them."""

    id: str
    tenant: str = DEFAULT_TENANT


@blueprint.get("/sign-in")
def show_sign_in() -> Response:
    """Ask for name and password."""
    return _sign_in_page(None, HTTPStatus.OK)


@blueprint.post("/sign-in")
def sign_in() -> Response:
    """Sign in, under a fresh session."""
    check_origin()
    # Nobody's name has U+0000, and PostgreSQL would refuse to look for it.
    name = request.form.get("name", "").replace("\0", "\N{REPLACEMENT CHARACTER}").strip()[:MAX_PASSWORD_LENGTH]
    password = request.form.get("password", "")[:MAX_PASSWORD_LENGTH]
    address, now, ledger = request.remote_addr or "", datetime.now(UTC), services().ledger
    with ledger.reading() as session:
        if not login_limits.may_try(session, name, address, now=now):
            return _sign_in_page(_TOO_MANY, HTTPStatus.TOO_MANY_REQUESTS)
        stored = None
        with suppress(NotFoundError):
            stored = users.get_user(session, name).password_hash
    if not is_password(password, stored):
        with ledger.transaction() as session:
            login_limits.note_failure(session, name, address, now=now)
        return _sign_in_page(_REFUSED, HTTPStatus.FORBIDDEN)
    with ledger.transaction() as session:
        login_limits.note_success(session, name, address)
    return _signed_in(name, _local(request.args.get("next")))


@blueprint.post("/sign-out")
@needs(Role.VIEWER)
def sign_out() -> Response:
    """End the session of this browser."""
    response = see_other("show_sign_in")
    token = take_cookie(response)
    with audited(services().ledger, person(), "user.sign_out", person().id) as change:
        user_sessions.end_session(change.session, token or "")
    return response


@blueprint.get("/link/<token>")
def show_link(token: str) -> Response:
    """Let a user choose a password; looking at the page does not use the link up."""
    return _link_page(token, None, HTTPStatus.OK)


@blueprint.post("/link/<token>")
def follow_link(token: str) -> Response:
    """Set the password and sign in."""
    check_origin()
    password = request.form.get("password", "")
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        said = f"Choose {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters."
        return _link_page(token, said, HTTPStatus.UNPROCESSABLE_ENTITY)
    if password != request.form.get("again", ""):
        return _link_page(token, "The two passwords differ.", HTTPStatus.UNPROCESSABLE_ENTITY)
    hashed = hash_password(password)
    with services().ledger.transaction() as session:
        name = users.use_link(session, token, hashed, now=datetime.now(UTC))
    if name is None:
        return _link_page(token, None, HTTPStatus.GONE)
    with audited(services().ledger, _Signing(name), "user.password", name):
        pass
    return _signed_in(name, None)


def _signed_in(name: str, wanted: str | None) -> Response:
    response = Response(status=HTTPStatus.SEE_OTHER)
    response.headers["Location"] = wanted or url_for("admin.overview")
    old = take_cookie(response)
    with audited(services().ledger, _Signing(name), "user.sign_in", name) as change:
        user_sessions.end_session(change.session, old or "")
        token = user_sessions.open_session(change.session, name, now=change.now)
    give_cookie(response, token)
    return response


def _local(wanted: str | None) -> str | None:
    """Where to go on; only pages of ours, or any site could send people anywhere by a link to this one."""
    parts = urlsplit(wanted or "")
    is_ours = not parts.scheme and not parts.netloc and parts.path.startswith("/admin") and "\\" not in parts.path
    return wanted if is_ours else None


def _sign_in_page(said: str | None, status: HTTPStatus) -> Response:
    after = _local(request.args.get("next"))
    return Response(render_template("admin/sign_in.html", said=said, after=after), status)


def _link_page(token: str, said: str | None, status: HTTPStatus) -> Response:
    with services().ledger.reading() as session:
        name = users.user_of_link(session, token, now=datetime.now(UTC))
    if name is None:
        status = HTTPStatus.GONE
    return Response(render_template("admin/link.html", name=name, said=said, min_length=MIN_PASSWORD_LENGTH), status)
