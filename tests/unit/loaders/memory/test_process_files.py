"""Processes tell the living from the dead."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from loaders.memory.processes import ProcessFile, ProcessToken, living


def test_a_process_is_alive_until_it_closes(tmp_path: Path) -> None:
    first, second = ProcessFile(tmp_path), ProcessFile(tmp_path)
    assert first.is_alive(second.token)
    assert set(living(tmp_path)) == {first.token, second.token}
    second.close()
    second.close()
    assert not first.is_alive(second.token)
    assert list(living(tmp_path)) == [first.token]
    first.close()


def test_nobody_lives_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert list(living(tmp_path / "none")) == []


def test_a_forked_child_does_not_keep_its_dead_parent_alive(tmp_path: Path) -> None:
    observer = ProcessFile(tmp_path / "processes")
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        own = ProcessFile(tmp_path / "processes")
        if os.fork() == 0:
            os.write(writing, f"{own.token} {os.getpid()}".encode())
        signal.pause()
    token, child = os.read(reading, 200).decode().split()
    try:
        assert observer.is_alive(ProcessToken(token))
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert not observer.is_alive(ProcessToken(token))
    finally:
        os.kill(int(child), signal.SIGKILL)
    observer.forget_dead()
    assert [path.name for path in (tmp_path / "processes").iterdir()] == [observer.token]
    observer.close()
    os.close(reading)
    os.close(writing)


def test_a_file_that_nobody_holds_is_a_dead_process(tmp_path: Path) -> None:
    observer = ProcessFile(tmp_path)
    (tmp_path / f"{os.getpid()}-0123").touch()
    assert not observer.is_alive(ProcessToken(f"{os.getpid()}-0123"))
    assert not observer.is_alive(ProcessToken("never-there"))
    observer.forget_dead()
    assert list(living(tmp_path)) == [observer.token]
    observer.close()
