"""A ledger that does not answer."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

from tests.faults.cases.common import REST, Case, start
from tests.support.cluster import Cluster
from tests.support.load import Load
from tests.support.postgres import PostgresServer

_OUTAGE_S = 10.0


def ledger_locked(cluster: Cluster, load: Load) -> None:
    """Row 14: nobody can write to the ledger for ten seconds; running jobs go on, and none ends without a commit."""
    start(load)
    with closing(sqlite3.connect(cluster.home / "ledger.db", isolation_level=None)) as connection, _submitting(load):
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(_OUTAGE_S)
        connection.execute("ROLLBACK")


def postgresql_stopped(server: PostgresServer) -> Case:
    """Row 14: the database server is stopped for ten seconds."""

    def postgresql_stopped(cluster: Cluster, load: Load) -> None:
        del cluster
        start(load)
        server.stop()
        with _submitting(load):
            time.sleep(_OUTAGE_S)
            server.start()

    return postgresql_stopped


@contextmanager
def _submitting(load: Load) -> Iterator[None]:
    """Submit the rest of the load during the block; it is refused until the ledger is back."""
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(load.submit, REST)
        yield
        submitted.result()
