"""What benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from scripts.bench_report import add_report_argument


@pytest.mark.parametrize("name", ["none/report.json", ""])
def test_a_report_that_could_not_be_written_is_refused_before_anything_is_measured(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_report_argument(parser)
    assert parser.parse_args(["--json", str(tmp_path / "report.json")]).json == tmp_path / "report.json"
    with pytest.raises(SystemExit):
        parser.parse_args(["--json", str(tmp_path / name)])
    assert "cannot be written" in capsys.readouterr().err
