"""Processes that a zygote forks behave like those that are started: environment, log, signals, status, their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import TimeoutExpired

import pytest

from sllm_tasks.zygote import ForkedProcess, Zygote
from tests.support.processes import wait_until

_COMMAND = (sys.executable, "-m", "tests.support.forked")
_OWNER = """
import sys
from pathlib import Path
from sllm_tasks.zygote import Zygote
if __name__ == "__main__":
    command = (sys.executable, "-m", "tests.support.forked", sys.argv[1])
    process = Zygote(["wave"]).start(command, {"WORD": "hello"}, Path(sys.argv[2]))
    print(process.pid, flush=True)
    print(process.wait(60), flush=True)
"""

_UNLUCKY = """
import sys
from pathlib import Path
from sllm_tasks.children import Child, ChildSpec
from sllm_tasks.zygote import Zygote
if __name__ == "__main__":
    spec = ChildSpec(name="child", command=(sys.executable, "-m", "this"), is_forked=True)
    child = Child(spec, Path(sys.argv[1]), Zygote(["tests.support.fatal_import"]))
    child.start()
    child.wait_stopped()
"""


class _Nursery:
    """A zygote and the processes of one test, which do not outlive it."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.zygote = Zygote(["wave"])
        self.started: list[ForkedProcess] = []

    def start(self, how: str, **environ: str) -> ForkedProcess:
        process = self.zygote.start((*_COMMAND, how), environ, self.log)
        self.started.append(process)
        return process

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[_Nursery]:
    made = _Nursery(tmp_path / "log")
    yield made
    for process in made.started:
        process.kill()
        process.wait(10)


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _owner(how: str, log: Path) -> subprocess.Popen[str]:
    """Start the owner of a zygote: each process has one, and other tests want other modules in ours."""
    command = [sys.executable, "-c", _OWNER, how, str(log)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_forked_process_has_its_imports_its_environment_a_session_and_a_log(tmp_path: Path) -> None:
    with _owner("fail", tmp_path / "log") as owner:
        assert owner.stdout is not None
        assert owner.stdout.read().split()[1] == "3"
    assert (tmp_path / "log").read_text() == "fail hello True True\noops\n"


def test_what_the_log_holds_stays(nursery: _Nursery) -> None:
    nursery.log.write_text("before\n")
    process = nursery.start("fail")
    assert (process.wait(10), process.poll()) == (3, 3)
    assert nursery.said().startswith("before\nfail")


def test_it_ends_as_it_wants_when_it_is_asked_to(nursery: _Nursery) -> None:
    process = nursery.start("polite")
    wait_until(lambda: "oops" in nursery.said(), "its handler")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_it_is_killed_when_it_does_not_want_to(nursery: _Nursery) -> None:
    process = nursery.start("stubborn")
    wait_until(lambda: "oops" in nursery.said(), "its handler")
    process.send_signal(signal.SIGTERM)
    with pytest.raises(TimeoutExpired):
        process.wait(0.1)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    process.send_signal(signal.SIGTERM)


def test_when_the_zygote_dies_its_processes_end_and_the_next_gets_another(nursery: _Nursery) -> None:
    process = nursery.start("polite")
    wait_until(lambda: "oops" in nursery.said(), "its handler")
    os.kill(_parent_of(process.pid), signal.SIGKILL)
    wait_until(lambda: process.poll() is not None, "its end")
    assert nursery.start("fail").wait(10) == 3


def test_when_the_owner_is_killed_its_processes_end(tmp_path: Path) -> None:
    with _owner("polite", tmp_path / "log") as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        zygote = _parent_of(pid)
        wait_until(lambda: (tmp_path / "log").exists() and "oops" in (tmp_path / "log").read_text(), "its handler")
        owner.kill()
    wait_until(lambda: not _runs(pid), "its end")
    wait_until(lambda: not _runs(zygote), "the zygote's end")


def test_what_is_no_module_is_refused(nursery: _Nursery) -> None:
    with pytest.raises(ValueError, match="sleep 60 1 is none of a module"):
        nursery.zygote.start(("sleep", "60", "1"), {}, nursery.log)


def test_a_child_whose_zygote_dies_on_the_way_is_started_without_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _UNLUCKY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "child imports for itself" in done.stderr
    assert "Beautiful is better than ugly." in (tmp_path / "child.log").read_text()
