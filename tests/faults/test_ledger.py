"""While the ledger is away jobs decode on, and none of them ends; when it is back they do."""

import pytest

from tests.faults.cases import ledger
from tests.support.arena import Arena
from tests.support.cluster import Cluster
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow


def test_jobs_end_when_a_locked_ledger_is_free_again(arena: Arena) -> None:
    arena.meet(ledger.ledger_locked).require()


def test_jobs_end_when_a_stopped_postgresql_is_back(postgres_server: PostgresServer) -> None:
    with postgres_server.database("ledger_of_a_cluster") as url, Cluster(SLLM_DATABASE_URL=url) as cluster:
        Arena(cluster).meet(ledger.postgresql_stopped(postgres_server)).require()
