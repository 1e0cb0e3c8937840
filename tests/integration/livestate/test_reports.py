"""Reports stay until the ledger has them."""

from __future__ import annotations

from tests.integration.livestate.world import World


def test_reports_come_oldest_first_and_stay_until_they_are_removed(world: World) -> None:
    for number in range(3):
        world.live.reports.add("decision", {"number": number})
    read = world.live.reports.read(2, 1)
    assert [report.data["number"] for report in read] == [0, 1]
    assert world.live.reports.read(2, 1) == read
    world.live.reports.remove(read)
    assert [report.data["number"] for report in world.live.reports.read(2, 1)] == [2]


def test_reading_no_reports_waits_and_gives_none(world: World) -> None:
    assert world.live.reports.read(10, 5) == []
    world.live.reports.remove([])
