"""What a load tells the cluster: to the jobs that wait for it how far it is, to the ledger how fast it was."""

from __future__ import annotations

import logging
import time

from loaders.checkpoint import LoadReport
from loaders.devices.loaded import LoadedFrom
from loaders.reading.pipeline import Progress
from sllm_tasks.cluster import Replica
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ids import new_id
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.fleet import LoadState

logger = logging.getLogger(__name__)

_PERIOD_S = 0.5
#: As the router saw it when it decided: of the page cache it does not know.
_TIERS = {
    LoadedFrom.POOL: "dram",
    LoadedFrom.PAGE_CACHE: "ssd",
    LoadedFrom.DISK: "ssd",
    LoadedFrom.REMOTE: "remote",
}


class LoadProgress:
    """One load, from its begin to a replica that takes jobs; called by the thread that loads."""

    def __init__(self, live: LiveState, replica: Replica, freeing_s: float = 0.0) -> None:
        """`freeing_s` is what it took before to free memory of this worker for it."""
        self._live = live
        self._replica = replica
        self._freeing_s = freeing_s
        self._begun_s = self._told_s = time.monotonic()
        # None: the engine has read no checkpoint.
        self._report: LoadReport | None = None

    def begin(self) -> None:
        """Tell the router that it begins: whoever joins it waits for the rest only."""
        try:
            self._live.fleet.begin_load(self._replica.id)
        except UnavailableError as error:
            logger.debug("nobody hears that a load begins: %s", error)

    def note(self, progress: Progress) -> None:
        """Pass on how far it is, now and then."""
        now_s = time.monotonic()
        if now_s - self._told_s < _PERIOD_S:
            return
        self._told_s = now_s
        state = LoadState(
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            bytes_per_s=int(progress.bytes_per_s),
            remaining_ms=None if progress.remaining_s is None else int(progress.remaining_s * 1000),
        )
        try:
            self._live.fleet.note_load(self._replica.id, state)
        except UnavailableError as error:
            logger.debug("nobody hears how far a load is: %s", error)

    def loaded(self, report: LoadReport) -> None:
        """Note how the bytes came."""
        self._report = report

    def ready(self) -> None:
        """Report how long all of it took, for estimates of the next one: jobs wait for more than the bytes."""
        report = self._report
        if report is None:
            return
        replica, tier = self._replica, _TIERS[report.loaded_from]
        seconds = self._freeing_s + time.monotonic() - self._begun_s
        logger.info(
            "replica %s of %s ready after %.3f s: %d bytes in %.3f s from %s",
            *(replica.id, replica.model, seconds, report.num_bytes, report.seconds, report.loaded_from),
        )
        data = {
            "id": new_id("load"),
            "checkpoint": replica.checkpoint,
            "gpu": str(replica.leader),
            "tier": tier,
            "num_bytes": report.num_bytes,
            "seconds": seconds,
        }
        try:
            self._live.reports.add("load_measured", {**data, "at_ms": self._live.now_ms()})
        except UnavailableError as error:
            logger.warning("a measured load is not reported: %s", error)
