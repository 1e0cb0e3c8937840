"""API keys that were recognised a moment ago, so that a request does not cost a query for its key."""

from __future__ import annotations

import hashlib
import logging
import time
from datetime import UTC, datetime
from typing import Final

from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.keys import ApiKey, note_key_used, verify_key
from webapp.errors import UnauthorizedError

logger = logging.getLogger(__name__)

#: A revoked key works for at most this time.
_MEMORY_S: Final = 5.0
_MAX_REMEMBERED: Final = 10_000
#: `last_used_at` is for people, so a use is written down this often at most.
_NOTE_EVERY_S: Final = 60.0


class Keyring:
    """Safe to use from many threads: an entry is replaced whole, and two that verify a key twice do no harm."""

    def __init__(self, ledger: Database) -> None:
        self._ledger = ledger
        # By hash, so that a dump of this process's memory does not hold every key in use.
        self._known: dict[bytes, tuple[float, ApiKey]] = {}
        self._noted_s: dict[str, float] = {}

    def recognise(self, plain: str) -> ApiKey:
        """The key that a client presents.

        Raises:
            UnauthorizedError: It is malformed, unknown, revoked or expired.
            UnavailableError: The ledger is out and the key was not seen within the last seconds.

        """
        digest = hashlib.sha256(plain.encode()).digest()
        known = self._known.get(digest)
        if known is not None and time.monotonic() - known[0] < _MEMORY_S:
            return known[1]
        with self._ledger.reading() as session:
            key = verify_key(session, plain, now=datetime.now(UTC))
        if key is None:
            self._known.pop(digest, None)
            raise UnauthorizedError("the API key is not valid")
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[digest] = (time.monotonic(), key)
        self._note_used(key.id)
        return key

    def _note_used(self, key_id: str) -> None:
        now_s = time.monotonic()
        if now_s - self._noted_s.get(key_id, -_NOTE_EVERY_S) < _NOTE_EVERY_S:
            return
        self._noted_s[key_id] = now_s
        try:
            with self._ledger.transaction() as session:
                note_key_used(session, key_id, now=datetime.now(UTC))
        except UnavailableError:
            # A ledger that cannot be written can still be read.
            logger.warning("the use of key %s was not noted", key_id)
