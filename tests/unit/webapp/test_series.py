"""Series over time from the lives of jobs, loads and predictions; all pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sllm_tasks.cluster import Tier
from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.history import JobLife, Prediction
from sllm_tasks.ledger.loads import MeasuredLoad
from webapp.admin.series import jobs_chart, loads_chart, make_grid, predictions_chart, starts_chart

UNTIL = datetime(2026, 11, 21, 12, tzinfo=UTC)
#: Ends at 20, 10 and 0 minutes before.
GRID = make_grid(UNTIL, timedelta(minutes=30), 3)


def _ago(minutes: float | None) -> datetime | None:
    return None if minutes is None else UNTIL - timedelta(minutes=minutes)


def _life(came: float, began: float | None, ended: float | None, kind: StartKind | None = None) -> JobLife:
    created = _ago(came)
    assert created is not None
    return JobLife(
        created_at=created, started_at=_ago(began), first_token_at=_ago(began), ended_at=_ago(ended), start_kind=kind
    )


def test_jobs_wait_until_they_begin_or_end_and_run_until_they_end() -> None:
    lives = [_life(25, 15, 5), _life(25, None, 12), _life(5, None, None), _life(90, 80, None)]
    assert jobs_chart(lives, GRID).series == {"waiting": [2, 0, 1], "running": [1, 2, 1]}


def test_starts_are_medians_of_the_interval_of_the_first_token() -> None:
    lives = [
        _life(3, 1, None, StartKind.WARM),
        _life(5, 1, None, StartKind.WARM),
        _life(16, 15, None, StartKind.COLD_SSD),
    ]
    assert starts_chart(lives, GRID).series == {"warm": [None, None, 180.0], "cold": [None, 60.0, None]}


def test_loads_are_counted_by_tier_and_those_before_the_window_are_not() -> None:
    def load(tier: Tier, minutes: float) -> MeasuredLoad:
        at = UNTIL - timedelta(minutes=minutes)
        return MeasuredLoad(id="", checkpoint="", node="", gpu=0, tier=tier, num_bytes=1, seconds=1, at=at)

    chart = loads_chart([load(Tier.SSD, 1), load(Tier.SSD, 2), load(Tier.DRAM, 25), load(Tier.DRAM, 31)], GRID)
    assert chart.series == {"remote": [0, 0, 0], "ssd": [0, 0, 0.2], "dram": [0.1, 0, 0]}


def test_predictions_stand_beside_what_came_of_them() -> None:
    known = [Prediction(at=UNTIL, predicted_s=1, actual_s=2), Prediction(at=UNTIL, predicted_s=3, actual_s=6)]
    assert predictions_chart(known, GRID).series == {"predicted": [None, None, 2], "actual": [None, None, 4]}
