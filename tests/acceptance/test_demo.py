"""The README's first command keeps its promise."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.processes import own_environ


@pytest.mark.slow
def test_the_demo_holds_all_that_it_claims() -> None:
    # A unix socket's path must be short, which pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="sllm-demo-") as home:
        log = Path(home) / "demo.log"
        with log.open("wb") as output:
            done = subprocess.run(
                [sys.executable, "-m", "scripts.demo", "--exit", "--home", home],
                cwd=Path(__file__).parents[2],
                env=own_environ(Path(home)),
                stdout=output,
                stderr=output,
                timeout=400,
                check=False,
            )
        assert done.returncode == 0, log.read_text()
