"""The kernels themselves, thread by thread: the tests of a device once more, in a process where numba simulates one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_TESTS = "tests/unit/kernels/test_device_kernels.py"


def test_the_kernels_pass_the_tests_of_a_device_in_the_simulator() -> None:
    # numba fixes the mode when it is imported, so it takes a process of its own.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", "--", _TESTS],
        cwd=_ROOT,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
