"""What the admin UI makes of numbers, searches, timings and placements; all pure."""

from __future__ import annotations

import pytest

from sllm_tasks.cluster import Tier
from sllm_tasks.jobs import ACTIVE_STATUSES, JobStatus
from webapp.admin.formats import human_bytes, human_ms, short_id
from webapp.admin.job_search import parse_search
from webapp.admin.job_timeline import timeline
from webapp.admin.placement_effects import Copy, effects


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(None, "-"), (0, "0 B"), (1023, "0.999 KiB"), (1536, "1.5 KiB"), (5 * 2**30, "5 GiB")]
)
def test_sizes_have_three_digits(num_bytes: int | None, text: str) -> None:
    assert human_bytes(num_bytes) == text


def test_spans_and_ids_are_short() -> None:
    assert [human_ms(ms) for ms in (None, 5, 1500, 600_000, 10**8)] == ["-", "5 ms", "1.5 s", "10 min", "28 h"]
    assert short_id("sha256:" + "ab" * 32) == "abababababab"
    assert [short_id("ab" * 32), short_id("node0"), short_id("opt_125m"), short_id(None)] == [
        "abababababab", "node0", "opt_125m", "-"
    ]  # fmt: skip
    assert short_id("job_01abcdefghjkmnpqrstvwxyz00") == "job_…tvwxyz00"


def test_a_search_has_names_and_words() -> None:
    found = parse_search("status:failed status:canceled model:opt node:node1 job_1")
    assert found.wanted.statuses == {JobStatus.FAILED, JobStatus.CANCELED}
    assert (found.wanted.model, found.wanted.node, found.wanted.text) == ("opt", "node1", "job_1")
    assert parse_search("status:active").wanted.statuses == ACTIVE_STATUSES
    assert "nonsense is no status" in parse_search("status:nonsense").errors[0]
    assert parse_search("other:thing").wanted.text == "other:thing"


def test_a_timeline_covers_the_whole_life_of_a_job() -> None:
    times = {"queued": 10, "placing": 5, "loading": 60, "first_token": 100, "total": 200}
    parts = timeline(times, 0)
    assert [(part.name, part.ms) for part in parts] == [
        ("queued", 10), ("placing", 5), ("loading", 60), ("prefill", 25), ("decoding", 100)
    ]  # fmt: skip
    assert parts[-1].begin + parts[-1].width == pytest.approx(100)


def test_a_timeline_of_a_job_that_waits_goes_on_until_now() -> None:
    nothing = dict.fromkeys(("queued", "placing", "loading", "first_token", "total"))
    assert [(part.name, part.ms) for part in timeline(nothing, 300)] == [("queued", 300)]
    loading = {**nothing, "queued": 100, "placing": 50}
    assert [(part.name, part.ms) for part in timeline(loading, 300)] == [
        ("queued", 100),
        ("placing", 50),
        ("loading", 150),
    ]


def _copy(actual: Tier | None, others: tuple[str, ...] = (), models: tuple[str, ...] = ("opt",)) -> Copy:
    return Copy(
        num_bytes=2**30,
        actual=actual,
        other_nodes=others,
        models=models,
        free_bytes={Tier.SSD: 2**31, Tier.DRAM: 2**29},
        bytes_per_s={Tier.SSD: 2**30, Tier.DRAM: None},
    )


def test_the_effect_of_a_placement_is_told_beforehand() -> None:
    assert effects(_copy(None, ("node1",)), "node0", Tier.SSD) == (
        "1 GiB are fetched from node1.", "The SSD of node0 has 2 GiB of room."
    )  # fmt: skip
    told = effects(_copy(Tier.SSD), "node0", Tier.DRAM)
    assert "already" in told[0]
    assert "about 1.0 s" in told[1]
    assert "makes way" in told[2]


def test_the_last_copy_of_what_serves_stays() -> None:
    assert "It stays" in effects(_copy(Tier.SSD), "node0", None)[0]
    assert "Copies stay on node1." in effects(_copy(Tier.SSD, ("node1",)), "node0", None)
    assert "deleted" in effects(_copy(Tier.SSD, models=()), "node0", None)[0]
