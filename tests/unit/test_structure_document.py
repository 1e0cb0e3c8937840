"""docs/structure.md lists every module and every script, and none that is gone."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("cuda_kernels", "loaders", "migrations", "sllm_tasks", "webapp")


def _listed() -> set[str]:
    """Paths named by the bullets below each heading that names a folder."""
    paths, folder = set(), ""
    for line in (_ROOT / "docs" / "structure.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"### `(.+)/`", line):
            folder = heading[1]
        elif bullet := re.match(r"- `([a-z0-9_]+\.(?:py|lua))`: \S", line):
            paths.add(f"{folder}/{bullet[1]}")
    return paths


def test_the_modules_listed_are_the_modules_there() -> None:
    there = {
        str(path.relative_to(_ROOT))
        for package in _PACKAGES
        for suffix in ("py", "lua")
        for path in (_ROOT / package).rglob(f"*.{suffix}")
        if path.name not in {"__init__.py", "_lib.lua"}
    }
    listed = _listed()
    assert there - listed == set()
    assert listed - there == set()
