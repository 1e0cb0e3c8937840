"""Hears of the migrations that concern this gpu and gives each its thread, as their source or as their target."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import StrEnum

from sllm_tasks.cluster import GpuId
from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate import LiveState
from sllm_tasks.migration.records import Migration
from sllm_tasks.migration.states import MigrationState
from sllm_tasks.threads import ServiceThread
from sllm_tasks.worker.moves.mailbox import Mailbox
from sllm_tasks.worker.moves.source import Source
from sllm_tasks.worker.moves.target import Target

logger = logging.getLogger(__name__)

#: A migration whose message was lost is found after this time.
_LOOK_S = 1.0


class _Side(StrEnum):
    SOURCE = "source"
    TARGET = "target"


class Moves:
    """One listening thread, and one thread for each side of a migration that is here."""

    def __init__(self, live: LiveState, gpu: GpuId, source: Source, target: Target) -> None:
        self._live = live
        self._gpu = gpu
        self._followers: dict[_Side, Callable[[Migration, Mailbox], None]] = {
            _Side.SOURCE: source.follow,
            _Side.TARGET: target.follow,
        }
        # Guarded by the lock: what is being followed.
        self._lock = threading.Lock()
        self._mailboxes: dict[tuple[str, _Side], Mailbox] = {}
        self._thread = ServiceThread("moves", self._run)

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing new."""
        self._thread.stop()

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                self._listen(stopping)
            except UnavailableError as error:
                logger.warning("not hearing of migrations: %s", error)
                stopping.wait(_LOOK_S)

    def _listen(self, stopping: threading.Event) -> None:
        ear = self._live.migrations.listen(self._gpu)
        try:
            look_s = 0.0
            while not stopping.is_set():
                # Also when messages come all the time: those of others may have been lost.
                if time.monotonic() - look_s > _LOOK_S:
                    look_s = time.monotonic()
                    self._begin(self._live.migrations.of_gpu(self._gpu))
                notice = ear.wait(_LOOK_S)
                if notice is not None:
                    with self._lock:
                        mailboxes = [self._mailboxes.get((notice.migration_id, side)) for side in _Side]
                    for mailbox in filter(None, mailboxes):
                        mailbox.put(notice)
                    if not any(mailboxes):
                        self._begin([notice.migration_id])
        finally:
            ear.close()

    def _begin(self, migration_ids: list[str]) -> None:
        """Follow what is not followed yet."""
        for migration in self._live.migrations.many(migration_ids):
            if migration is None or migration.state.is_terminal:
                continue
            if migration.target_gpu == self._gpu:
                self._follow(migration, _Side.TARGET)
            if migration.source_gpu == self._gpu and migration.state is not MigrationState.HANDING_OVER:
                self._follow(migration, _Side.SOURCE)

    def _follow(self, migration: Migration, side: _Side) -> None:
        key = (migration.id, side)
        with self._lock:
            if key in self._mailboxes:
                return
            mailbox = self._mailboxes[key] = Mailbox()
        name = f"{side}-{migration.id}"
        threading.Thread(target=self._run_side, args=(key, migration, mailbox), name=name, daemon=True).start()

    def _run_side(self, key: tuple[str, _Side], migration: Migration, mailbox: Mailbox) -> None:
        try:
            self._followers[key[1]](migration, mailbox)
        except UnavailableError as error:
            # The next look begins it again, should it still be wanted.
            logger.warning("migration %s waits: %s", migration.id, error)
        except Exception:
            logger.exception("migration %s failed at the %s", migration.id, key[1])
            self._give_up(migration)
        finally:
            with self._lock:
                del self._mailboxes[key]

    def _give_up(self, migration: Migration) -> None:
        try:
            self._live.migrations.end(migration.id, MigrationState.FAILED, "an internal error")
        except UnavailableError as error:
            logger.warning("migration %s is left to its deadline: %s", migration.id, error)
