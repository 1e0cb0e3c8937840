"""What operators have drained, carried from the ledger to the live state: by web at once, by control once a second."""

from __future__ import annotations

from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.drains import drained
from sllm_tasks.livestate import LiveState


def follow_drains(ledger: Database, live: LiveState) -> None:
    """Tell the live state what the ledger says, should they differ; raises UnavailableError."""
    # Looked at before the ledger, so that a change which comes in between is not undone.
    seen = live.drains.look()
    with ledger.reading() as session:
        names = drained(session)
    if names != seen.names or not seen.version:
        live.drains.set(names, seen.version)
