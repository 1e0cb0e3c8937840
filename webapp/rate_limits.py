"""What an API key may do in a minute: requests, and tokens of jobs; and the headers that tell how much is left.

Limits hold while the live state answers: without it everything is let through, because no job starts then anyway.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Final

from flask import Response, g, request

from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.keys import ApiKey
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.rates import RateKind, RateUse
from sllm_tasks.quotas import RulesMemory
from webapp.errors import RateLimitedError
from webapp.openai.problems import PREFIX as OPENAI_PREFIX

logger = logging.getLogger(__name__)

_WINDOW_S: Final = 60
#: The `openai` package gives up when it is asked to wait for longer than this.
_MAX_RETRY_AFTER_S: Final = 120
#: How long the live state is left alone after it did not answer.
_DOWN_BELIEF_S: Final = 1.0


class RateLimits:
    """Safe to use from many threads; what a request has left is noted in `g` for its answer."""

    def __init__(self, rules: RulesMemory, live: LiveState, defaults: Mapping[RateKind, int | None]) -> None:
        self._rules = rules
        self._live = live
        self._defaults = defaults
        self._down_until_s = 0.0

    def take(self, key: ApiKey, kind: RateKind, amount: int = 1) -> None:
        """Count what a request needs; raises RateLimitedError, with nothing counted."""
        if time.monotonic() < self._down_until_s:
            return
        try:
            limit = self._limit(key.tenant, kind)
            if limit is None:
                return
            use = self._live.rates.take(kind, key.id, limit=max(1, limit), amount=amount) if limit else _NOTHING
        except UnavailableError as error:
            self._down_until_s = time.monotonic() + _DOWN_BELIEF_S
            logger.warning("no limits on %s for now: %s", kind, error)
            return
        _uses()[kind] = use
        if not use.taken:
            raise RateLimitedError(
                f"this key may have {use.limit} {kind} a minute",
                retry_after_s=min(_MAX_RETRY_AFTER_S, math.ceil(use.wait_ms / 1000)),
            )

    def _limit(self, tenant: str, kind: RateKind) -> int | None:
        rules = self._rules.of(tenant)
        own = rules.max_requests_per_min if kind is RateKind.REQUESTS else rules.max_tokens_per_min
        return self._defaults[kind] if own is None else own


#: Of a limit of 0.
_NOTHING: Final = RateUse(taken=False, limit=0, remaining=0, full_ms=_WINDOW_S * 1000, wait_ms=_WINDOW_S * 1000)


def tell_rates(response: Response) -> Response:
    """Say how much is left: in the words of OpenAI below `/v1`, else in those of the IETF (draft 10)."""
    uses = _uses()
    if request.path.startswith(OPENAI_PREFIX):
        for kind, use in uses.items():
            response.headers[f"X-RateLimit-Limit-{kind.title()}"] = str(use.limit)
            response.headers[f"X-RateLimit-Remaining-{kind.title()}"] = str(use.remaining)
            response.headers[f"X-RateLimit-Reset-{kind.title()}"] = f"{use.full_ms / 1000:g}s"
    elif uses:
        policies = (f'"{kind}";q={use.limit};w={_WINDOW_S}' for kind, use in uses.items())
        left = (f'"{kind}";r={use.remaining};t={math.ceil(use.full_ms / 1000)}' for kind, use in uses.items())
        response.headers["RateLimit-Policy"] = ", ".join(policies)
        response.headers["RateLimit"] = ", ".join(left)
    return response


def _uses() -> dict[RateKind, RateUse]:
    uses: dict[RateKind, RateUse] = g.setdefault("rate_uses", {})
    return uses
