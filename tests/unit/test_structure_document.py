"""docs/structure.md lists every module and every script, none that is gone, and says of each what it says of itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("cuda_kernels", "loaders", "migrations", "sllm_tasks", "webapp")


def _listed() -> dict[str, str]:
    """What is said of each path, by the bullets below each heading that names a folder."""
    paths, folder = dict[str, str](), ""
    for line in (_ROOT / "docs" / "structure.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"### `(.+)/`", line):
            folder = heading[1]
        elif bullet := re.fullmatch(r"- `([a-z0-9_]+\.(?:py|lua))`: (\S.*)", line):
            paths[f"{folder}/{bullet[1]}"] = bullet[2]
    return paths


def test_the_modules_listed_are_the_modules_there() -> None:
    there = {
        str(path.relative_to(_ROOT))
        for package in _PACKAGES
        for suffix in ("py", "lua")
        for path in (_ROOT / package).rglob(f"*.{suffix}")
        if path.name not in {"__init__.py", "_lib.lua"}
    }
    listed = set(_listed())
    assert there - listed == set()
    assert listed - there == set()


def test_what_is_said_of_a_module_is_how_its_own_text_begins() -> None:
    said = {path: text for path, text in _listed().items() if path.endswith(".py")}
    assert said == {path: text if text in _beginnings(_ROOT / path) else "another text" for path, text in said.items()}


def _beginnings(path: Path) -> tuple[str, str]:
    """The first paragraph of a module's docstring, and the first sentence of that."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split()).removesuffix(".")
    return paragraph, re.split(r"\.\s", paragraph)[0]
