"""Commit the writes of many threads together: one transaction and one fsync for all that wait at the moment.

A commit costs a fixed time however little it writes, and SQLite has one writer; under load the threads of a web process
would wait for each other's commits one by one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from sqlalchemy.orm import Session

from sllm_tasks.errors import SllmError
from sllm_tasks.ledger.database import Database

_Result = TypeVar("_Result")
#: Writes of one transaction at most, so that nobody waits for long behind the first.
_MAX_GROUP = 64


class GroupCommit:
    """Whoever finds nobody committing commits for all that wait; the others only wait.

    A write that refuses by raising one of our errors is undone alone. Any other error rolls the whole group back and
    reaches each of its writers.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = threading.Lock()
        # Guards the list; held only to change it.
        self._lock = threading.Lock()
        self._waiting: list[tuple[Callable[[Session], object], Future[object]]] = []

    def run(self, write: Callable[[Session], _Result]) -> _Result:
        """Run a write and return its result once it is committed; raises what it raised, or UnavailableError."""
        future: Future[object] = Future()
        with self._lock:
            self._waiting.append((write, future))
        while not future.done():
            with self._turn:
                if not future.done():
                    self._commit_waiting()
        return future.result()  # type: ignore[return-value]  # it is what this very write has returned

    def _commit_waiting(self) -> None:
        with self._lock:
            group, self._waiting = self._waiting[:_MAX_GROUP], self._waiting[_MAX_GROUP:]
        outcomes: list[tuple[Future[object], object, Exception | None]] = []
        try:
            with self._database.transaction() as session:
                for write, future in group:
                    try:
                        with session.begin_nested():
                            result = write(session)
                        outcomes.append((future, result, None))
                    except SllmError as error:
                        outcomes.append((future, None, error))
        except Exception as error:  # noqa: BLE001 - it is handed to those who wait
            for _, future in group:
                future.set_exception(error)
            return
        for future, result, refused in outcomes:
            if refused is not None:
                future.set_exception(refused)
            else:
                future.set_result(result)
