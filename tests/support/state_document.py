"""docs/state.md as data: the names in its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_DOCUMENT = Path(__file__).parents[2] / "docs" / "state.md"


@dataclass(frozen=True, slots=True)
class KeyForm:
    """A key as documented, with `<placeholders>`."""

    text: str

    def matches(self, key: str) -> bool:
        """Whether a key of a server has this form."""
        parts = re.split(r"<[a-z ]+>", self.text)
        return re.fullmatch("[^:]+".join(map(re.escape, parts)), key) is not None


@cache
def documented_keys() -> tuple[KeyForm, ...]:
    """Every key that the document names."""
    return tuple(KeyForm(name) for name in first_column("Keys"))


def first_column(section: str) -> list[str]:
    """The names in the first column of the table below a heading."""
    text = _DOCUMENT.read_text(encoding="utf-8")
    body = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([^`]+)`", body, flags=re.MULTILINE)
