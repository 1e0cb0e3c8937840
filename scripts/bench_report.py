"""What every benchmark reports: the machine, the samples, the figures, as a table and as a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median


def describe_machine() -> dict[str, object]:
    """Say what the numbers were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class Row:
    """All samples of one measured thing, in the order they were taken."""

    name: str
    unit: str
    samples: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished benchmark."""

    settings: Mapping[str, object]
    rows: Sequence[Row]
    #: Numbers computed from the samples, under the keys that the project has promised.
    figures: Mapping[str, float]
    machine: Mapping[str, object] = field(default_factory=describe_machine)

    def table(self) -> str:
        """Show medians with the range they lie in, then the figures."""
        width = max(len(name) for name in (*(row.name for row in self.rows), *self.figures))
        lines = [", ".join(f"{key} {value}" for key, value in part.items()) for part in (self.machine, self.settings)]
        lines.append(f"{'':{width}}  {'median':>10}  {'least':>10}  {'most':>10}")
        for row in self.rows:
            numbers = (median(row.samples), min(row.samples), max(row.samples))
            lines.append(f"{row.name:{width}}  " + "  ".join(f"{number:10.4g}" for number in numbers) + f"  {row.unit}")
        lines += [f"{name:{width}}  {value:10.4g}" for name, value in self.figures.items()]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""
        content = {
            "machine": dict(self.machine),
            # As a reader would type it, not where this checkout happens to be.
            "command": shlex.join([f"scripts/{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
            "settings": dict(self.settings),
            "rows": [asdict(row) for row in self.rows],
            "figures": dict(self.figures),
        }
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def add_report_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--json FILE`."""
    parser.add_argument("--json", type=_result_file, metavar="FILE", help="write the samples and figures there as well")


def _result_file(text: str) -> Path:
    """Refuse what cannot be written: a benchmark that takes an hour is not to find that out in the end."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written")
    return path


def finish(report: Report, json_path: Path | None) -> None:
    """Print the table and write the file, if one was asked for."""
    print(report.table())
    if json_path is not None:
        report.write(json_path)
