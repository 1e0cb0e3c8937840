"""Work that a nursery forks is done as by a process of its own, and is none of the nursery's when either dies."""

from __future__ import annotations

import os
import resource
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sllm_tasks.errors import ModelUnusableError
from sllm_tasks.node_agent.apart.process import Work, WorkCanceledError, work_apart
from sllm_tasks.node_agent.apart.ward import forked_from
from sllm_tasks.node_agent.store import CheckpointStore
from tests.integration.node_agent.conftest import Nursery, Watch, publish, started_nursery
from tests.support.processes import wait_until


def _request(store: CheckpointStore, digest: str) -> dict[str, str]:
    return {"path": str(store.path(digest)), "digest": digest}


class _Paused(Watch):
    """Holds work up at its first progress, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go = threading.Event()

    def note(self, done_bytes: int, total_bytes: int) -> None:
        super().note(done_bytes, total_bytes)
        self.begun.set()
        assert self.go.wait(60)


class _Piece:
    """A piece of work that is held up in its middle."""

    def __init__(self, request: dict[str, str], nursery: Nursery) -> None:
        self._watch = _Paused()
        self._results: list[dict[str, Any]] = []
        self._request = request
        self._path = nursery.path
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        self._results.append(work_apart(Work.VERIFY, self._request, self._watch, self._path))

    def begin(self) -> None:
        """Return in its middle."""
        self._thread.start()
        assert self._watch.begun.wait(60)

    def end(self) -> dict[str, Any]:
        """Let it go on, and return its result."""
        self._watch.go.set()
        self._thread.join(60)
        (result,) = self._results
        return result


def test_its_work_has_the_same_result_as_that_of_a_process_of_its_own(store: CheckpointStore, nursery: Nursery) -> None:
    request = _request(store, publish(store, num_chunks=2))
    assert work_apart(Work.VERIFY, request, Watch(), nursery.path) == work_apart(Work.VERIFY, request, Watch())


def test_it_does_several_pieces_at_once_and_none_is_left(store: CheckpointStore, nursery: Nursery) -> None:
    request = _request(store, publish(store))
    pieces = [_Piece(request, nursery) for _ in range(3)]
    for piece in pieces:
        piece.begin()
    assert nursery.children()
    results = [piece.end() for piece in pieces]
    assert results == [work_apart(Work.VERIFY, request, Watch(), nursery.path)] * 3
    wait_until(lambda: not nursery.children(), "all of them are gone")


def test_an_agent_with_many_connections_can_work(store: CheckpointStore, nursery: Nursery) -> None:
    digest = publish(store)
    # More than `select` can look at.
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    with ExitStack() as resources:
        resources.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        for _ in range(1100):
            resources.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        for path in (nursery.path, None):
            assert work_apart(Work.VERIFY, _request(store, digest), Watch(), path)["num_bytes"] > 0


def test_what_its_process_died_of_is_told(nursery: Nursery) -> None:
    with pytest.raises(ModelUnusableError, match="verify_checkpoint died: KeyError: 'path'"):
        work_apart(Work.VERIFY, {}, Watch(), nursery.path)


def test_work_that_is_not_wanted_any_more_ends(store: CheckpointStore, nursery: Nursery) -> None:
    with pytest.raises(WorkCanceledError):
        work_apart(Work.VERIFY, _request(store, publish(store)), Watch(canceled_at=0), nursery.path)
    wait_until(lambda: not nursery.children(), "its end")


def test_what_nobody_knows_is_not_begun(nursery: Nursery, tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w+") as stream:
        assert forked_from(nursery.path, "os", [stream.fileno()] * 3) is None
        stream.seek(0)
        assert "ValueError: 'os' is not a valid Work" in stream.read()


def test_work_goes_on_when_the_nursery_dies_and_the_next_does_without(store: CheckpointStore, tmp_path: Path) -> None:
    request = _request(store, publish(store))
    with started_nursery(tmp_path / "sock") as nursery:
        piece = _Piece(request, nursery)
        piece.begin()
        nursery.process.kill()
        nursery.process.wait()
    assert piece.end() == work_apart(Work.VERIFY, request, Watch(), nursery.path)
