"""Signed triggers: who can reach the broker still cannot make a worker do anything.

A trigger says what to look at (a job and its attempt, an operation, a replica), never what to do with which data. The
MAC covers every field and the expiry; a replay finds its attempt claimed or stale.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass
from typing import Any

from sllm_tasks.errors import MessageRejectedError

#: A trigger older than this is ignored; the sweeper sends a fresh one long before.
TRIGGER_LIFE_MS = 10 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """The body of a Celery message."""

    #: Name of the Celery task it is for, so that a trigger cannot be used for another one.
    task: str
    #: What it is about: a job, an operation or a replica.
    subject: str
    attempt: int
    #: Cluster time in ms; whoever claims compares it with the server's clock.
    expires_ms: int


_FIELD_TYPES = {"task": str, "subject": str, "attempt": int, "expires_ms": int}


class Signer:
    """Signs and checks triggers with the cluster's secret."""

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"sllm-trigger\0" + secret.encode()).digest()

    def sign(self, trigger: Trigger) -> dict[str, Any]:
        """The keyword arguments of the Celery message."""
        return {**asdict(trigger), "mac": self._mac(trigger)}

    def check(self, task: str, message: dict[str, Any]) -> Trigger:
        """The trigger in a message; raises MessageRejectedError for anything that `sign` has not made for `task`."""
        fields = dict(message)
        mac = fields.pop("mac", None)
        try:
            trigger = Trigger(**fields)
        except TypeError as error:
            raise MessageRejectedError(f"{task}: not a trigger: {error}") from error
        if not (
            isinstance(mac, str)
            and mac.isascii()
            and all(type(fields[name]) is kind for name, kind in _FIELD_TYPES.items())
            and hmac.compare_digest(mac, self._mac(trigger))
        ):
            raise MessageRejectedError(f"{task}: the trigger is not signed by this cluster")
        if trigger.task != task:
            raise MessageRejectedError(f"{task}: the trigger is for {trigger.task}")
        return trigger

    def _mac(self, trigger: Trigger) -> str:
        body = json.dumps(asdict(trigger), sort_keys=True).encode()
        return hmac.new(self._key, body, hashlib.sha256).hexdigest()
