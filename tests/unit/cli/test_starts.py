"""A place and a prediction in a table; there may be neither."""

from __future__ import annotations

from sllm_tasks.cli.starts import interval, place


def test_a_place_is_a_replica_or_the_gpus_that_are_loaded_or_none() -> None:
    assert place({"replica_id": "replica_1", "gpus": []}) == "replica_1"
    assert place({"replica_id": "", "gpus": ["node0.0", "node0.1"]}) == "node0.0,node0.1"
    assert place({"replica_id": "", "gpus": []}) == "-"


def test_a_wait_without_a_forecast_has_no_interval() -> None:
    assert interval({"start": {"seconds": 1.0, "low_s": 0.5, "high_s": 2.25}}) == "0.50-2.25 s"
    assert interval({"start": None}) == "-"
