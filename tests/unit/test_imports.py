"""The layers of setup.cfg hold; `lint-imports` says the same with more detail."""

from __future__ import annotations

from pathlib import Path

from importlinter import cli

_ROOT = Path(__file__).parents[2]


def test_imports_go_down_only() -> None:
    assert cli.lint_imports(config_filename=str(_ROOT / "setup.cfg"), no_cache=True) == cli.EXIT_STATUS_SUCCESS
