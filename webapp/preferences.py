"""The `Prefer` header (RFC 7240), of which this server honours `wait`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: A client never waits longer than this for one answer, in seconds.
MAX_WAIT_S: Final = 60

_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
#: Pieces between commas, and within one between semicolons, that are not inside of quotes. A quote that is not closed
#: goes on to the end, so that nothing is ever read twice: the header may be anybody's.
_LIST_ITEM: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_PARAMETER: Final = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+')
_PREFERENCE: Final = re.compile(rf"({_WORD})(?:[ \t]*=[ \t]*(?:({_WORD})|({_QUOTED}))?)?")


def wanted_wait_s(header: str) -> int:
    """Seconds for which a client is ready to wait for news, at most MAX_WAIT_S; 0 if it does not say."""
    for name, value in _preferences(header):
        # Of a preference that is given more than once the first counts, whatever it says.
        if name == "wait":
            return _clamped(value) if value.isascii() and value.isdigit() else 0
    return 0


def _preferences(header: str) -> Iterator[tuple[str, str]]:
    """Names in lower case with their values; what is not well-formed is passed over."""
    for item in _LIST_ITEM.findall(header):
        # What follows a semicolon are parameters of the preference; `wait` has none.
        first = _PARAMETER.match(item)
        match = _PREFERENCE.fullmatch(first[0].strip(" \t")) if first else None
        if match:
            yield match[1].lower(), match[2] or _unquote(match[3] or "")


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _clamped(digits: str) -> int:
    # Python refuses to read a number of some thousand digits.
    significant = digits.lstrip("0")
    return MAX_WAIT_S if len(significant) > len(str(MAX_WAIT_S)) else min(int(significant or "0"), MAX_WAIT_S)
