"""Who looks at a page: a session in a cookie, the role of its user, and proof that a form is one of ours."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Final, ParamSpec
from urllib.parse import urlsplit

from flask import Response, g, request

from sllm_tasks.bootstrap import DEFAULT_TENANT
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.user_sessions import SESSION_LIFE, find_session, is_seen_due, note_seen
from webapp.errors import ForbiddenError, UnauthorizedError
from webapp.services import services

logger = logging.getLogger(__name__)

_COOKIE: Final = "sllm_session"
_PATH: Final = "/admin"
_CHANGES_NOTHING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who is signed in with this request."""

    id: str
    role: Role
    #: Of the session; everything else that must be hard to guess is made of it.
    token: str
    #: Whose jobs theirs are.
    tenant: str = DEFAULT_TENANT

    @property
    def csrf_token(self) -> str:
        """What a form must carry: no other site can know it, and it ends with the session."""
        return hmac.new(self.token.encode(), b"csrf", hashlib.sha256).hexdigest()

    def may(self, role: str) -> bool:
        """Whether they may do what this role may, for pages that show only what works."""
        return self.role.includes(Role(role))


def needs(role: Role) -> Callable[[Callable[_Arguments, Response]], Callable[_Arguments, Response]]:
    """Let a view run only for users of a role, and a change only from a form of ours."""

    def decorate(view: Callable[_Arguments, Response]) -> Callable[_Arguments, Response]:
        @wraps(view)
        def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Response:
            g.person = signed_in()
            if request.method not in _CHANGES_NOTHING:
                check_origin()
                if not hmac.compare_digest(request.form.get("csrf_token", "").encode(), g.person.csrf_token.encode()):
                    raise ForbiddenError("this form is from another session; load the page anew")
            if not g.person.role.includes(role):
                raise ForbiddenError(f"this needs the role {role}; you are {g.person.role}")
            # Asked again for as long as a page is live.
            g.needed = role
            return view(*args, **kwargs)

        return checked

    return decorate


def person() -> Person:
    """Who is signed in; only inside views that `needs` guards."""
    found: Person = g.person
    return found


def signed_in() -> Person:
    """Recognise the session of this request; raises UnauthorizedError."""
    token, now = request.cookies.get(_COOKIE, ""), datetime.now(UTC)
    with services().ledger.reading() as session:
        found = find_session(session, token, now=now) if token else None
    if found is None:
        raise UnauthorizedError("sign in first")
    if is_seen_due(found, now):
        _note_seen(token, now)
    return Person(id=found.name, role=found.role, token=token)


def check_origin() -> None:
    """Refuse what a browser says another site has sent; raises ForbiddenError."""
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    origin = request.headers.get("Origin")
    is_ours = origin is None or urlsplit(origin).netloc == request.host
    if site not in {"same-origin", "none"} or not is_ours:
        raise ForbiddenError("this request comes from another site")


def give_cookie(response: Response, token: str) -> None:
    """Sign the browser in."""
    response.set_cookie(
        _COOKIE,
        token,
        max_age=int(SESSION_LIFE.total_seconds()),
        path=_PATH,
        secure=request.is_secure,
        httponly=True,
        samesite="Lax",
    )


def take_cookie(response: Response) -> str | None:
    """Sign the browser out; returns the token that it had."""
    response.delete_cookie(_COOKIE, path=_PATH)
    return request.cookies.get(_COOKIE)


def _note_seen(token: str, now: datetime) -> None:
    try:
        with services().ledger.transaction() as session:
            note_seen(session, token, now=now)
    except UnavailableError:
        # A ledger that cannot be written can still be read.
        logger.warning("the use of a session was not noted")
