"""Who sends a request: an API key as a bearer token, its tenant and its scopes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec

from flask import Response, g, request

from sllm_tasks.ledger.keys import ApiKey, Scope
from sllm_tasks.livestate.rates import RateKind
from webapp.errors import ForbiddenError, UnauthorizedError
from webapp.services import services

_Arguments = ParamSpec("_Arguments")

#: The scope that each guarded view takes, for the description of the API; filled while views are imported.
GUARDED: Final[dict[Callable[..., object], Scope]] = {}


def requires(scope: Scope) -> Callable[[Callable[_Arguments, Response]], Callable[_Arguments, Response]]:
    """Let a view run only for keys with that scope."""

    def decorate(view: Callable[_Arguments, Response]) -> Callable[_Arguments, Response]:
        @wraps(view)
        def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Response:
            key = services().keyring.recognise(bearer())
            if scope not in key.scopes:
                raise ForbiddenError(f"this needs an API key with the scope {scope}")
            g.api_key = key
            services().rate_limits.take(key, RateKind.REQUESTS)
            return view(*args, **kwargs)

        GUARDED[checked] = scope
        return checked

    return decorate


def caller() -> ApiKey:
    """The key of this request; only inside views that `requires` guards."""
    key: ApiKey = g.api_key
    return key


def bearer() -> str:
    """Read the token of this request; raises UnauthorizedError."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.isascii():
        raise UnauthorizedError("send an API key: Authorization: Bearer sllm_...")
    return token.strip()
