"""When a delivery is tried again: the schedule that Standard Webhooks recommends, three days in all."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Final

#: After the first, second, ... failed try.
_DELAYS: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
#: A receiver that comes back is not to get everything in one second.
_JITTER: Final = 0.1


def next_try(num_attempts: int, now: datetime) -> datetime | None:
    """When to try again after so many failed tries; None: no more."""
    if num_attempts > len(_DELAYS):
        return None
    return now + _DELAYS[num_attempts - 1] * random.uniform(1, 1 + _JITTER)  # noqa: S311 - spreads load, hides nothing
