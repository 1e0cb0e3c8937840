"""One cluster for all files here that need nothing special of theirs: starting one costs more than most tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """Two nodes that serve the tiny model. Whoever deploys more uses a name of its own; what is broken is put right."""
    # Long enough for a worker that is told to stop to move its jobs; gpus that one model can fill.
    with Cluster(SLLM_GRACE_S="15", SLLM_GPU_MEMORY_BYTES=str(100 << 20)) as started:
        yield started
