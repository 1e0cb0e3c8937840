"""What is logged of requests that were turned away for now: one line at once, then one every ten seconds.

While the ledger is out, every request is refused; a line for each would bury what the log is read for.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Final

logger = logging.getLogger(__name__)

_EVERY_S: Final = 10.0


@dataclass(slots=True)
class _Kind:
    told_s: float
    num_untold: int = 0
    last: str = ""


class RefusalLog:
    """Safe to use from many threads."""

    def __init__(self, every_s: float = _EVERY_S) -> None:
        self._every_s = every_s
        # Guards the table; held only to count and to take what is due.
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}

    def note(self, kind: str, what: str) -> None:
        """Tell of a refusal, or count it if one of its kind was told of a moment ago."""
        with self._lock:
            known = self._kinds.get(kind)
            if known is not None and time.monotonic() - known.told_s < self._every_s:
                known.num_untold += 1
                known.last = what
                return
            num_untold = known.num_untold if known is not None else 0
            self._kinds[kind] = _Kind(time.monotonic())
        logger.warning("%s%s", what, f" ({num_untold} more like it before)" if num_untold else "")

    def tell_due(self) -> None:
        """Tell of refusals that were only counted; called with every answer, so that the last ones are told too."""
        with self._lock:
            now_s = time.monotonic()
            due = [kind for kind in self._kinds.values() if kind.num_untold and now_s - kind.told_s >= self._every_s]
            told = [(kind.num_untold, kind.last) for kind in due]
            for kind in due:
                kind.told_s, kind.num_untold = now_s, 0
        for num_untold, last in told:
            logger.warning("%d more requests were refused, the last: %s", num_untold, last)
