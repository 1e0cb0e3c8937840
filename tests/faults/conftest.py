"""One cluster for all fault tests, because starting one costs more than most faults."""

from collections.abc import Iterator

import pytest

from tests.support.arena import Arena
from tests.support.cluster import Cluster


@pytest.fixture(scope="package")
def arena() -> Iterator[Arena]:
    """A cluster that has answered all questions once without disturbance."""
    with Cluster() as cluster:
        yield Arena(cluster)
