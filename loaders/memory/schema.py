"""Tables of the pool's directory."""

from __future__ import annotations

import sqlite3

from loaders.errors import PoolCorruptError, PoolMismatchError
from loaders.memory.pages import PageKind
from loaders.memory.records import PoolShape

VERSION = 1

_TABLES = """
CREATE TABLE pool (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    num_chunks INTEGER NOT NULL,
    chunk_bytes INTEGER NOT NULL,
    memory TEXT NOT NULL,
    page_kind TEXT NOT NULL,
    num_prepared INTEGER NOT NULL DEFAULT 0      -- the first so many chunks have their pages
);
CREATE TABLE contents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL,
    num_bytes INTEGER NOT NULL,
    num_chunks INTEGER NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0,
    discarded INTEGER NOT NULL DEFAULT 0,        -- found wrong: stays until its last lease goes
    last_use_s REAL NOT NULL
);
CREATE UNIQUE INDEX one_content_per_key ON contents (key) WHERE NOT discarded;
CREATE TABLE extents (
    start INTEGER PRIMARY KEY,                   -- chunk of the pool
    num_chunks INTEGER NOT NULL CHECK (num_chunks > 0),
    content_id INTEGER NOT NULL REFERENCES contents ON DELETE CASCADE,
    position INTEGER NOT NULL                    -- chunk of the content
);
CREATE INDEX extents_of_content ON extents (content_id, position);
CREATE TABLE leases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    content_id INTEGER NOT NULL REFERENCES contents,
    process TEXT NOT NULL
);
CREATE INDEX leases_of_content ON leases (content_id);
CREATE TABLE chunks (
    content_id INTEGER NOT NULL REFERENCES contents ON DELETE CASCADE,
    position INTEGER NOT NULL,
    filled INTEGER,                              -- counts up per content in the order of filling, null while empty
    lease_id INTEGER REFERENCES leases,          -- who fills it now
    PRIMARY KEY (content_id, position),
    CHECK (filled IS NULL OR lease_id IS NULL)
) WITHOUT ROWID;
CREATE INDEX chunks_by_state ON chunks (content_id, filled, lease_id, position);
CREATE INDEX chunks_by_lease ON chunks (lease_id) WHERE lease_id IS NOT NULL;
CREATE TABLE tickets (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    process TEXT NOT NULL,
    load_id TEXT NOT NULL,
    key TEXT NOT NULL,
    load_class TEXT NOT NULL,
    total_bytes INTEGER NOT NULL,
    remaining_bytes INTEGER NOT NULL,
    arrived_s REAL NOT NULL,
    started_s REAL,                              -- when it was first its turn
    progressed_s REAL NOT NULL
);
"""


def create_tables(connection: sqlite3.Connection, shape: PoolShape) -> None:
    """Make the tables inside the caller's transaction; a directory without them was never finished."""
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    connection.execute(
        "INSERT INTO pool (id, num_chunks, chunk_bytes, memory, page_kind) VALUES (1, ?, ?, ?, ?)",
        (shape.num_chunks, shape.chunk_bytes, shape.memory, shape.page_kind.value),
    )
    connection.execute(f"PRAGMA user_version = {VERSION}")


def read_shape(connection: sqlite3.Connection) -> PoolShape | None:
    """What the pool was made as; None if its making was never finished. Raises PoolMismatchError, PoolCorruptError."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        return None
    if version != VERSION:
        raise PoolMismatchError(f"the pool's directory has version {version}, this code knows {VERSION}")
    row = connection.execute("SELECT num_chunks, chunk_bytes, memory, page_kind FROM pool").fetchone()
    if row is None:
        raise PoolCorruptError("the pool's directory does not say what the pool is")
    num_chunks, chunk_bytes, memory, page_kind = row
    return PoolShape(num_chunks=num_chunks, chunk_bytes=chunk_bytes, memory=memory, page_kind=PageKind(page_kind))
