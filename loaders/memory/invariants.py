"""What must be true of the pool's directory at any moment, whoever died when."""

from __future__ import annotations

import sqlite3

from loaders.errors import PoolCorruptError
from loaders.memory.records import PoolShape

#: Each finds rows that contradict others, and says in words what they would be.
_CONTRADICTIONS = (
    (
        "chunks in two contents",
        """SELECT a.start, b.start FROM extents a JOIN extents b
           ON a.start < b.start AND a.start + a.num_chunks > b.start""",
    ),
    (
        "chunks outside the pool",
        "SELECT start FROM extents, pool WHERE start < 0 OR start + extents.num_chunks > pool.num_chunks",
    ),
    (
        "contents whose extents do not add up",
        """SELECT id FROM contents WHERE num_chunks <>
           (SELECT coalesce(sum(num_chunks), 0) FROM extents WHERE content_id = contents.id)""",
    ),
    (
        "extents out of order",
        """SELECT start FROM extents a WHERE position <>
           (SELECT coalesce(sum(num_chunks), 0) FROM extents b
            WHERE b.content_id = a.content_id AND b.position < a.position)""",
    ),
    (
        "contents whose chunks do not add up",
        """SELECT id FROM contents WHERE num_chunks <> (SELECT count(*) FROM chunks WHERE content_id = contents.id)
           OR num_chunks <> (SELECT coalesce(max(position) + 1, 0) FROM chunks WHERE content_id = contents.id)""",
    ),
    (
        "claims without a lease on the content",
        """SELECT chunks.content_id, position FROM chunks LEFT JOIN leases
           ON leases.id = lease_id AND leases.content_id = chunks.content_id
           WHERE lease_id IS NOT NULL AND leases.id IS NULL""",
    ),
    (
        "chunks filled at one point",
        "SELECT content_id, filled FROM chunks WHERE filled NOT NULL GROUP BY content_id, filled HAVING count(*) > 1",
    ),
    (
        "discarded contents that nobody leases",
        "SELECT id FROM contents WHERE discarded AND id NOT IN (SELECT content_id FROM leases)",
    ),
    ("contents with one key", "SELECT key FROM contents WHERE NOT discarded GROUP BY key HAVING count(*) > 1"),
)


def check_invariants(connection: sqlite3.Connection, shape: PoolShape) -> None:
    """Raise PoolCorruptError naming all that is wrong."""
    wrong = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    for words, query in _CONTRADICTIONS:
        rows = connection.execute(query).fetchall()
        if rows:
            wrong.append(f"{words}: {rows[:5]}")
    stored = connection.execute("SELECT num_chunks, chunk_bytes FROM pool").fetchone()
    if stored != (shape.num_chunks, shape.chunk_bytes):
        wrong.append(f"a pool of {stored} (chunks, bytes of each), not {shape.num_chunks, shape.chunk_bytes}")
    if wrong:
        raise PoolCorruptError("; ".join(wrong))
