"""Studies: many simulations, their figures, and what is written about them."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sllm_tasks.cli.failures import Exit
from sllm_tasks.cli.main import main
from sllm_tasks.errors import SimulationError
from sllm_tasks.simulation.figures import figures, over
from sllm_tasks.simulation.page import write_page
from sllm_tasks.simulation.presets import PRESETS, Cell, cells_of, paper_scenario
from sllm_tasks.simulation.report import as_json, table
from sllm_tasks.simulation.results import EstimateErrors, Samples, Summary, jain
from sllm_tasks.simulation.study import Result, Study, Task, run_study, simulate


def _result(system: str, startups_s: tuple[float, ...], finished: int, **cell: object) -> Result:
    samples = Samples(
        startups_s=startups_s, num_finished=finished, errors_s=(0.5, -1.0), num_held=1, num_cold=1, held_gpu_s=9.0
    )
    place = Cell(size="opt-6.7b", num_models=32, data="gsm8k", rate_per_s=1.4)
    return Result(
        cell=replace(place, **cell),  # type: ignore[arg-type]
        system=system,
        summary=Summary.of([samples]),
        means_s=(1.0,),
        p99s_s=(1.0,),
        errors=EstimateErrors.of([samples]),
    )


def _study() -> Study:
    results = (
        _result("ours", (1.0, 1.0), 2),
        _result("serverlessllm", (2.0, 2.0), 2),
        _result("shepherd", (3.0, 3.0), 2),
        _result("serverless", (8.0, 8.0), 2),
    )
    return Study(preset="paper", seeds=1, first_seed=0, results=results)


def test_a_study_whose_process_is_killed_says_so() -> None:
    def kill(*_: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(SimulationError, match="fewer --workers"):
        run_study("paper", cells_of("paper", seeds=range(1), is_quick=True)[:4], ["ours"], workers=1, progress=kill)


def test_figures_are_ratios_of_latencies() -> None:
    found = figures(_study())
    assert found["paper_over_ours_mean"] == found["paper_over_ours_p99"] == pytest.approx(2.0)
    assert found["shepherd_over_paper_p99"] == pytest.approx(1.5)
    assert found["serverless_over_paper_p99"] == pytest.approx(4.0)


def test_where_both_sit_at_the_timeout_the_finished_share_decides() -> None:
    ours, theirs = _result("ours", (300.0, 300.0), 2), _result("serverlessllm", (300.0, 300.0), 1)
    assert over(theirs, ours, "p99_s") == pytest.approx(2.0)


def test_the_worst_cell_makes_the_figure() -> None:
    worse = (_result("ours", (4.0,), 1, data="sharegpt"), _result("serverlessllm", (5.0,), 1, data="sharegpt"))
    study = replace(_study(), results=(*_study().results, *worse))
    assert figures(study)["paper_over_ours_mean"] == pytest.approx(1.25)


def test_errors_of_estimates_are_absolute_and_intervals_are_counted() -> None:
    errors = _result("ours", (1.0,), 1).errors
    assert errors is not None
    assert (errors.median_s, errors.worst_s, errors.coverage) == pytest.approx((0.75, 1.0, 0.5))


def test_jain_is_one_for_equals_and_a_share_for_a_winner() -> None:
    assert jain([2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_reports_show_every_system_and_the_papers_number(tmp_path: Path) -> None:
    study = _study()
    assert "serverlessllm" in table(study)
    content = as_json(study, ["--quick"])
    assert content["command"] == "sllm simulate --quick"
    assert [row["published_mean_s"] for row in content["rows"]] == [None, 0.8, None, None]
    write_page(study, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http" not in page


def test_a_study_is_the_sum_of_its_simulations() -> None:
    cells = [replace(cell, num_requests=20) for cell in cells_of("paper", seeds=range(2), is_quick=True)[:2]]
    study = run_study("paper", cells, ["serverless"], workers=1, progress=lambda _done, _total: None)
    alone = [simulate(Task(cell=cell, system="serverless")) for cell in cells]
    assert study.results[0].summary == Summary.of(alone)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_makes_scenarios_that_can_be_played(preset: str) -> None:
    cells = cells_of(preset, seeds=range(2), is_quick=True)
    assert len({cell.name for cell in cells}) * 2 == len(cells)
    scenario = paper_scenario(cells[0])
    assert len(scenario.trace.requests) == cells[0].num_requests


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="cannot be written"):
        write_page(_study(), tmp_path / "none" / "page.html")


def test_the_command_simulates_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "orders.json"
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--load-orders", "--quick", "--json", str(path)])
    assert ended.value.code == Exit.OK
    assert "remaining" in capsys.readouterr().out
    assert len(json.loads(path.read_text())["rows"]) == 12


@pytest.mark.parametrize("options", [["--preset", "none"], ["--policy", "none"]])
def test_an_unknown_name_is_refused_before_anything_runs(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *options])
    assert ended.value.code == Exit.USAGE
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "seeds"),
    [([], range(20)), (["--seeds", "5", "--first-seed", "20"], range(20, 25)), (["--quick"], range(2))],
)
def test_the_command_plays_the_traces_that_are_asked_for(
    options: list[str], seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[Cell] = []

    def keep(_preset: str, cells: Iterable[Cell], *_: object, **__: object) -> Study:
        played.extend(cells)
        return _study()

    monkeypatch.setattr("sllm_tasks.cli.simulate.run_study", keep)
    with pytest.raises(SystemExit):
        main(["simulate", *options])
    assert sorted({cell.seed for cell in played}) == list(seeds)
    assert len({cell.name for cell in played}) * len(seeds) == len(played)


def test_a_policy_that_is_named_twice_is_played_once(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[str] = []

    def keep(_preset: str, _cells: Iterable[Cell], systems: Sequence[str], **_: object) -> Study:
        played.extend(systems)
        return _study()

    monkeypatch.setattr("sllm_tasks.cli.simulate.run_study", keep)
    with pytest.raises(SystemExit):
        main(["simulate", "--quick", "--policy", "ours", "--policy", "serverless", "--policy", "ours"])
    assert played == ["ours", "serverless"]


@pytest.mark.parametrize("name", ["none/study.json", "", "file/study.json"])
@pytest.mark.parametrize("option", ["--json", "--html", "--plot"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(
    option: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("sllm_tasks.cli.simulate.run_study", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--quick", option, str(tmp_path / name)])
    assert ended.value.code == Exit.USAGE
    assert option in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("option", ["--html", "--plot"])
def test_what_the_comparison_of_loading_orders_does_not_write_is_refused(option: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--load-orders", "--quick", option, str(tmp_path / "orders")])
    assert ended.value.code == Exit.USAGE


@pytest.mark.parametrize("options", [["--seeds", "1001"], ["--workers", "1025"]])
def test_more_than_a_machine_holds_is_refused(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sllm_tasks.cli.simulate.run_study", lambda *_, **__: _study())
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--quick", *options])
    assert ended.value.code == Exit.USAGE
