"""The layers of setup.cfg hold; `lint-imports` says the same with more detail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_imports_go_down_only() -> None:
    # In a process of its own: it silences every logger of the one it runs in.
    check = "import sys; from importlinter import cli; sys.exit(cli.lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", check], cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
