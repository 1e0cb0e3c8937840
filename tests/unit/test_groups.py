"""Tests that share what is costly to start run in one process."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="tests run one after the other")
def test_side_by_side_every_test_is_in_a_group(request: pytest.FixtureRequest) -> None:
    # What pytest-xdist distributes by; without it every process starts every cluster.
    assert request.node.nodeid.endswith(f"@{request.path}")
