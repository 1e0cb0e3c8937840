"""What numba keeps of compiled code on the disk may be missing, damaged or without room: the code runs all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_PROGRAM = "from cuda_kernels.digest import chunk_digest; print(chunk_digest(b'12345678'))"
#: Lets the probe for a writable folder pass, and nothing else be written: as on a disk that is full.
_ON_A_FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY));"


def _digest(cache: Path, before: str = "") -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", before + _PROGRAM]
    done = subprocess.run(command, cwd=_ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


@pytest.mark.parametrize("pattern", ["*.nbi", "*.nbc"])
def test_compiled_code_that_a_crash_left_empty_is_compiled_again(tmp_path: Path, pattern: str) -> None:
    digest = _digest(tmp_path)
    kept = list(tmp_path.rglob(pattern))
    assert kept
    for path in kept:
        path.write_bytes(b"")
    assert _digest(tmp_path) == digest


def test_a_full_disk_keeps_no_code_from_being_compiled(tmp_path: Path) -> None:
    assert _digest(tmp_path / "full", _ON_A_FULL_DISK) == _digest(tmp_path / "free")
    assert not list((tmp_path / "full").rglob("*.nbc"))
