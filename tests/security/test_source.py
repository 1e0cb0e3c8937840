"""What no line of the product does, whoever writes it: run code that came with data, or believe that data is safe."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SOURCES = sorted(
    path for package in ("cuda_kernels", "loaders", "sllm_tasks", "webapp") for path in (_ROOT / package).rglob("*.py")
)
#: Besides what ruff's rules of the kind S refuse.
_NEVER = re.compile(
    r"^\s*(?:import|from) (?:pickle|dill|cloudpickle|marshal|shelve|joblib)\b|\b(?:torch|numpy|np|yaml)\.load\("
    r"|(?<![.\w])(?:eval|exec|Markup)\(|\b(?:trust_remote_code|allow_pickle|shell)=(?!False)",
    re.MULTILINE,
)


def test_nothing_is_unpickled_evaluated_or_trusted() -> None:
    found = {path: _NEVER.findall(path.read_text(encoding="utf-8")) for path in _SOURCES}
    assert {path: matches for path, matches in found.items() if matches} == {}


def test_templates_escape_whatever_they_show() -> None:
    for path in (_ROOT / "webapp" / "templates").rglob("*.html"):
        assert not re.search(r"\|\s*safe\b|autoescape\s+false", path.read_text(encoding="utf-8")), path


def test_every_dependency_is_pinned() -> None:
    lines = [line for line in (_ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][\w.]*", line)] == []
