"""Folders of loads from elsewhere, and those that processes have left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from loaders.remote.scratch import scratch_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def age(path: Path) -> None:
    os.utime(path, (0, 0))


def test_a_folder_goes_with_its_block(folder: Path) -> None:
    with scratch_folder() as path:
        assert path.parent == folder
        (path / "file").write_text("something")
    assert list(folder.iterdir()) == []


def test_what_a_process_that_was_killed_has_left_is_removed_by_the_next(folder: Path) -> None:
    program = (
        "import os; from loaders.remote.scratch import scratch_folder\nwith scratch_folder(): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    (left,) = folder.iterdir()
    (left / "file").write_text("something")
    with scratch_folder():
        assert left.exists(), "it may be somebody's who has just begun"
    age(left)
    with scratch_folder():
        assert not left.exists()


def test_a_folder_in_use_stays_however_old_it_is(folder: Path) -> None:
    with scratch_folder() as old:
        age(old)
        with scratch_folder():
            assert old.exists()
    assert list(folder.iterdir()) == []


def test_where_a_link_leads_nothing_is_removed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = tmp_path_factory.mktemp("elsewhere")
    (kept / "file").write_text("something")
    age(kept)
    (folder / "sllm-remote-link").symlink_to(kept)
    with scratch_folder():
        pass
    assert (kept / "file").exists()
