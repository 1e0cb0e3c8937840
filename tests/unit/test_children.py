"""Child processes: kept alive with growing pauses, stopped within their grace, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sllm_tasks import children
from sllm_tasks.children import Child, ChildSpec
from tests.support.processes import wait_until

_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
_SUPERVISOR = """
import sys, time
from pathlib import Path
from sllm_tasks.children import Child, ChildSpec
child = Child(ChildSpec(name="child", command=("sleep", "60")), Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""
_POLITE = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The module's clock, moved by the test."""
    fake = SimpleNamespace(now_s=1_000.0)
    monkeypatch.setattr(children, "time", SimpleNamespace(monotonic=lambda: fake.now_s))
    return fake


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Child]]:
    """Children that the test starts; none outlives it."""
    made: list[Child] = []
    yield made
    for child in made:
        if child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
        child.wait_stopped()


def _child(tmp_path: Path, started: list[Child], *command: str, grace_s: float = 10.0) -> Child:
    child = Child(ChildSpec(name="child", command=command, environ={"WORD": "hello"}, grace_s=grace_s), tmp_path)
    started.append(child)
    return child


def _log(tmp_path: Path) -> str:
    return (tmp_path / "child.log").read_text()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_child_gets_its_environment_and_writes_to_its_log(tmp_path: Path, started: list[Child]) -> None:
    child = _child(tmp_path, started, "sh", "-c", 'echo "$WORD"; echo oops >&2')
    assert not child.was_started
    child.start()
    assert child.was_started
    wait_until(lambda: child.pid is None, "the child's end")
    assert _log(tmp_path) == "hello\noops\n"


def test_a_child_that_lives_is_left_alone(tmp_path: Path, started: list[Child]) -> None:
    child = _child(tmp_path, started, "sleep", "60")
    child.start()
    pid = child.pid
    child.look()
    assert (child.pid, child.num_restarts) == (pid, 0)


def test_a_child_that_keeps_dying_starts_again_after_growing_pauses(
    tmp_path: Path, started: list[Child], clock: SimpleNamespace
) -> None:
    child = _child(tmp_path, started, "false")
    child.start()
    pauses_s = []
    for restarts in range(1, 9):
        wait_until(lambda: child.pid is None, "the child's end")
        child.look()
        died_s = clock.now_s
        while child.num_restarts < restarts:
            clock.now_s += 0.05
            child.look()
        pauses_s.append(clock.now_s - died_s)
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[0] < 1 < pauses_s[-1] < 11


def test_a_child_that_lived_long_starts_again_soon(
    tmp_path: Path, started: list[Child], clock: SimpleNamespace
) -> None:
    child = _child(tmp_path, started, "false")
    for lived_s in (0.0, 0.0, 0.0, 60.0):
        child.start()
        clock.now_s += lived_s
        wait_until(lambda: child.pid is None, "the child's end")
        child.look()
    clock.now_s += 0.3
    child.look()
    assert child.num_restarts == 1


def test_a_child_that_stops_when_asked_is_not_killed(tmp_path: Path, started: list[Child]) -> None:
    child = _child(
        tmp_path, started, "sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    )
    child.start()
    wait_until(lambda: "ready" in _log(tmp_path), "the child's trap")
    child.ask_to_stop()
    child.wait_stopped()
    assert child.pid is None
    assert _log(tmp_path) == "ready\nbye\n"


def test_a_child_that_does_not_stop_within_its_grace_is_killed(tmp_path: Path, started: list[Child]) -> None:
    child = _child(tmp_path, started, sys.executable, "-c", _STUBBORN, grace_s=0.1)
    child.start()
    wait_until(lambda: "ready" in _log(tmp_path), "the child's handler")
    pid = child.pid
    assert pid is not None
    child.ask_to_stop()
    child.wait_stopped()
    assert not _runs(pid)


def test_stopping_what_never_started_does_nothing(tmp_path: Path, started: list[Child]) -> None:
    child = _child(tmp_path, started, "true")
    child.ask_to_stop()
    child.wait_stopped()


def test_children_of_a_supervisor_that_was_killed_end_as_well(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SUPERVISOR, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _runs(pid)
        parent.kill()
    wait_until(lambda: not _runs(pid), "the grandchild's end")
