"""Services that other packages have control run, found through the entry point group `sllm.control`.

What turns a request into a job belongs to the web application, which this package does not know.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from sllm_tasks.config import Settings
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.ledger.database import Database
from sllm_tasks.livestate import LiveState
from sllm_tasks.threads import ServiceThread

_GROUP = "sllm.control"


def installed_services(
    settings: Settings, ledger: Database, live: LiveState, dispatcher: Dispatcher
) -> tuple[ServiceThread, ...]:
    """Make a thread, not started, of each: its entry point makes an object whose `run` works until told to stop."""
    return tuple(
        ServiceThread(point.name, point.load()(settings, ledger, live, dispatcher).run)
        for point in entry_points(group=_GROUP)
    )
