"""What the dead leave in the directory, and how it goes: leases, claims and tickets die with their process."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from loaders.memory.database import Database
from loaders.memory.processes import ProcessFile, ProcessToken

_PROCESSES = "SELECT process FROM leases UNION SELECT process FROM tickets"


def sweep(connection: sqlite3.Connection, process: ProcessFile) -> bool:
    """Drop what dead processes held, inside the caller's transaction; whether there was anything."""
    dead = [token for (token,) in connection.execute(_PROCESSES) if not process.is_alive(ProcessToken(token))]
    for token in dead:
        drop_process(connection, ProcessToken(token))
    return bool(dead)


def sweep_if_needed(database: Database, process: ProcessFile) -> bool:
    """Do the same, but take part in the writing only when somebody is dead."""
    if all(process.is_alive(ProcessToken(token)) for (token,) in database.query(_PROCESSES)):
        return False
    with database.transaction() as connection:
        return sweep(connection, process)


def drop_process(connection: sqlite3.Connection, token: ProcessToken) -> None:
    """Drop what one process holds."""
    drop_leases(connection, [row[0] for row in connection.execute("SELECT id FROM leases WHERE process = ?", (token,))])
    connection.execute("DELETE FROM tickets WHERE process = ?", (token,))


def drop_leases(connection: sqlite3.Connection, lease_ids: Sequence[int]) -> None:
    """End leases: their claims can be made by others, and a discarded content goes with its last lease."""
    ids = [(lease_id,) for lease_id in lease_ids]
    connection.executemany("UPDATE chunks SET lease_id = NULL WHERE lease_id = ?", ids)
    connection.executemany("DELETE FROM leases WHERE id = ?", ids)
    connection.execute("DELETE FROM contents WHERE discarded AND id NOT IN (SELECT content_id FROM leases)")
