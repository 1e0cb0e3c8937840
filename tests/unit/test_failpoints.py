"""Points at which a test makes a process fail: in a process of their own, because some of them end it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

_PASS = "from sllm_tasks.failpoints import failpoint; [failpoint('p', n, 'job_1') for n in range(4)]; print('passed')"


def _run(failpoints: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "SLLM_FAILPOINTS": failpoints}
    return subprocess.run([sys.executable, "-c", _PASS], env=environ, capture_output=True, text=True, check=False)


def test_a_point_does_nothing_unless_it_is_named() -> None:
    assert _run("other=kill9").stdout == "passed\n"


def test_a_point_acts_at_its_count_and_for_its_subject_only() -> None:
    assert _run("p=kill9@3").returncode == -signal.SIGKILL
    assert _run("p=kill9@9").stdout == "passed\n"
    assert _run("p=kill9~job_1").returncode == -signal.SIGKILL
    assert _run("p=kill9~job_2").stdout == "passed\n"


def test_a_point_may_raise_or_wait() -> None:
    assert "FailpointError: failpoint p" in _run("p=raise").stderr
    assert _run("p=sleep:1").stdout == "passed\n"


def test_a_point_that_cannot_be_read_stops_the_process() -> None:
    assert "'explode' is not kill9|stop|raise" in _run("p=explode").stderr
    assert "neither name=action" in _run("p").stderr


def test_an_armed_point_acts_once_per_line(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("kill9~job_1\nkill9~job_2\nkill9@2~job_1\n")
    assert _run(f"@{tmp_path}").returncode == -signal.SIGKILL
    assert (tmp_path / "p").read_text() == "kill9~job_2\nkill9@2~job_1\n"
    assert _run(f"@{tmp_path}").returncode == -signal.SIGKILL
    assert _run(f"@{tmp_path}").stdout == "passed\n"
    assert (tmp_path / "p").read_text() == "kill9~job_2\n"
