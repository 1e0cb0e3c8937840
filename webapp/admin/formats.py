"""Numbers and instants as people read them, for templates."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Final

#: Where there is nothing to show.
NOTHING: Final = "-"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human_bytes(num_bytes: float | None) -> str:
    """Write a size with three digits."""
    if num_bytes is None:
        return NOTHING
    size, units = float(num_bytes), iter(_UNITS)
    unit = next(units)
    while size >= 999.5 and unit != _UNITS[-1]:
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.3g} {unit}"


def human_rate(bytes_per_s: float | None) -> str:
    """Write a bandwidth."""
    return "not measured" if bytes_per_s is None else f"{bytes_per_s / 1e9:.2f} GB/s"


def human_ms(milliseconds: float | None) -> str:
    """Write a time span."""
    if milliseconds is None:
        return NOTHING
    seconds = milliseconds / 1000
    if seconds < 1:
        return f"{milliseconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def human_s(seconds: float | None) -> str:
    """Write a time span."""
    return human_ms(None if seconds is None else seconds * 1000)


def clock_time(value: str | None) -> str:
    """Write an instant of the API: the time if it is of today (UTC), the date as well if it is not."""
    if value is None:
        return NOTHING
    at = datetime.fromisoformat(value)
    return at.strftime("%H:%M:%S" if at.date() == datetime.now(UTC).date() else "%Y-%m-%d %H:%M")


def short_id(value: str | None) -> str:
    """Shorten a digest or an id to what tells it from its neighbours."""
    if not value:
        return NOTHING
    digest = value.removeprefix("sha256:")
    if _DIGEST.fullmatch(digest):
        return digest[:12]
    kind, underscore, rest = value.partition("_")
    return f"{kind}_…{rest[-8:]}" if underscore and len(value) > 24 else value


def pretty_json(value: object) -> str:
    """Write a value of the API over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def in_words(value: object) -> str:
    """Write the name of a state without underscores."""
    return NOTHING if value is None else str(value).replace("_", " ")


FILTERS: Final = {
    "bytes": human_bytes,
    "rate": human_rate,
    "ms": human_ms,
    "seconds": human_s,
    "clock": clock_time,
    "short": short_id,
    "pretty": pretty_json,
    "words": in_words,
}
