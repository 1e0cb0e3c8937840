"""The router's lease: who holds it decides, and a leader that loses it ends."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate import LiveState
from sllm_tasks.threads import ServiceThread

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
#: Exit status of a router that is no longer the leader; the supervisor starts it again, as a standby.
EX_NOT_LEADER = 75


class Leadership:
    """Held from `acquire` on; the epoch goes with every decision, so that a leader which slept decides nothing."""

    def __init__(self, live: LiveState, who: str, on_tick: Callable[[], None]) -> None:
        self._live = live
        self._who = who
        self._on_tick = on_tick
        self.epoch = 0
        self._thread = ServiceThread("leader-lease", self._renew)

    def acquire(self) -> None:
        """Wait until the lease is ours."""
        while True:
            try:
                epoch = self._live.router.lead(self._who)
            except UnavailableError as error:
                logger.warning("no lease: %s", error)
            else:
                if epoch is not None:
                    break
            time.sleep(_PERIOD_S)
        self.epoch = epoch
        logger.info("leads as %s, epoch %d", self._who, epoch)

    def start(self) -> None:
        """Renew the lease every second from now on, and tick."""
        self._thread.start()

    def stop(self) -> None:
        """Let the lease run out."""
        self._thread.stop()

    def _renew(self, stopping: threading.Event) -> None:
        while not stopping.wait(_PERIOD_S):
            try:
                epoch = self._live.router.lead(self._who, self.epoch)
            except UnavailableError as error:
                # Whoever may lead meanwhile: nothing that this process decides passes before the server has said.
                logger.warning("lease not renewed: %s", error)
                continue
            if epoch != self.epoch:
                self._leave()
            self._on_tick()

    def _leave(self) -> None:
        # Another one leads or led in between, or the live state was lost: what this process believes is out of date.
        logger.warning("no longer the leader")
        logging.shutdown()
        os._exit(EX_NOT_LEADER)
