"""What a supervisor that was killed has left is waited for, and nothing else is."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path

import pytest

from sllm_tasks.process_list import ProcessList
from tests.support.processes import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


def test_without_a_list_nothing_is_waited_for(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    ProcessList(home).wait_for_orphans(60)
    assert not caplog.messages


def test_a_list_that_was_removed_is_none(home: Path) -> None:
    processes = ProcessList(home)
    processes.write({"web": os.getpid(), "router": None})
    assert json.loads((home / "run" / "processes.json").read_text()) == {"web": os.getpid(), "router": None}
    processes.remove()
    assert not list((home / "run").iterdir())


def test_orphans_are_waited_for_until_they_have_ended(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with subprocess.Popen(["sleep", "0.3"]) as orphan:
        wait_until(
            lambda: Path(f"/proc/{orphan.pid}/cmdline").read_bytes(), "it has a name, as what was started long ago"
        )
        ProcessList(home).write({"web": orphan.pid, "router": None})
        ProcessList(home).wait_for_orphans(60)
        # Dead, though nobody has asked after it.
        wait_until(lambda: orphan.poll() is not None, "its end")
    assert len(caplog.messages) == 1


def test_what_does_not_end_is_named(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ProcessList(home).write({"web": os.getpid()})
    ProcessList(home).wait_for_orphans(0.01)
    assert f"{{'web': {os.getpid()}}}" in caplog.messages[-1]
