"""`traceparent` (W3C Trace Context): which trace of its client's a request belongs to; passed on, never made up."""

from __future__ import annotations

import re
from typing import Final

_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def valid_traceparent(header: str) -> str | None:
    """Return the header if it is one; None for what the standard tells receivers to ignore."""
    return header if _FORM.fullmatch(header) else None


def trace_id(traceparent: str | None) -> str | None:
    """The trace that a valid `traceparent` names."""
    match = _FORM.fullmatch(traceparent or "")
    return match["trace"] if match else None
