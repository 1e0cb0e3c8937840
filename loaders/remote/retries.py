"""How often something is tried again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The defaults bridge some eight seconds without any answer; progress begins the count anew."""

    max_tries: int = 6
    first_delay_s: float = 0.25
    max_delay_s: float = 8.0

    def delay_s(self, num_failures: int, asked_s: float = 0.0) -> float | None:
        """How long to wait after so many failures in a row, at least as long as the server asked; None: give up."""
        if num_failures >= self.max_tries:
            return None
        delay_s = min(self.first_delay_s * 2.0 ** (num_failures - 1), self.max_delay_s)
        # Spread, so that many connections that broke together do not come back together.
        return max(delay_s * random.uniform(0.5, 1.0), asked_s)  # noqa: S311
