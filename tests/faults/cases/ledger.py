"""A ledger that does not answer."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tests.faults.cases.common import REST, start
from tests.support.cluster import Cluster
from tests.support.load import Load

_OUTAGE_S = 10.0


def ledger_locked(cluster: Cluster, load: Load) -> None:
    """Row 14: nobody can write to the ledger for ten seconds; running jobs go on, and none ends without a commit."""
    start(load)
    with closing(sqlite3.connect(cluster.home / "ledger.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as pool:
            submitted = pool.submit(load.submit, REST)
            time.sleep(_OUTAGE_S)
            connection.execute("ROLLBACK")
            submitted.result()
