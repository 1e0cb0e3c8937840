"""Which process is which under `sllm up`: for operators, for tests, and for the next one if this one is killed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

_LOOK_S = 0.1


class ProcessList:
    """`run/processes.json` in the state folder: process ids by name, None for one that does not run."""

    def __init__(self, home: Path) -> None:
        self._path = home / "run" / "processes.json"

    def write(self, pids: Mapping[str, int | None]) -> None:
        """Replace what it holds."""
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(dict(pids)), encoding="utf-8")
        temporary.replace(self._path)

    def remove(self) -> None:
        """Say that everything was stopped."""
        self._path.unlink(missing_ok=True)

    def wait_for_orphans(self, timeout_s: float) -> None:
        """Wait for the end of what a supervisor that was killed has left: it ends by itself, but holds port and gpus.

        Nothing is killed: after a restart of the machine these ids may be anybody's.
        """
        if not self._orphans():
            return
        logger.warning("the last `sllm up` did not stop in order; waiting for its processes to end")
        deadline_s = time.monotonic() + timeout_s
        while (orphans := self._orphans()) and time.monotonic() < deadline_s:
            time.sleep(_LOOK_S)
        if orphans:
            logger.warning("these have not ended, or are others by now: %s", orphans)

    def _orphans(self) -> dict[str, int]:
        try:
            pids: dict[str, int | None] = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return {name: pid for name, pid in pids.items() if pid is not None and _runs(pid)}


def _runs(pid: int) -> bool:
    try:
        # Empty for one that is dead and that nobody has asked after.
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False
