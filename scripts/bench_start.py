"""Measure starts out of memory: OPT-1.3B in bfloat16 is loaded, and reads a prompt of 32 tokens to its first token.

Ours from the node's pool, by the engines of both levels of exactness, and transformers from the page cache. Each round
is a fresh process for each of them, which starts the model, lets go of it and starts it again: at the first start the
exact engine tries whether the model's rows are exact, and at later ones knows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from loaders.memory.pool_folder import remove_pool
from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.two_starts import CHECKPOINT, CONTESTANTS, files_of

_TIMEOUT_S = 600
_STARTS = ("first", "later")

#: Seconds by contestant, start and part of it.
Samples = dict[tuple[str, str, str], list[float]]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made and kept")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoint for the next run")
    add_report_argument(parser)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.gettempdir()) / "sllm-bench-start"
    folder.mkdir(parents=True, exist_ok=True)
    files = files_of(folder)
    remove_pool(files.pool)
    try:
        samples = _measure(folder, arguments.rounds)
    finally:
        remove_pool(files.pool)
    if not arguments.keep and arguments.folder is None:
        shutil.rmtree(folder)
    rows = [
        Row(f"{name}, {start} start: {part}", "s", tuple(values)) for (name, start, part), values in samples.items()
    ]
    whole = {key[:2]: median(values) for key, values in samples.items() if key[2] == "both"}
    theirs = whole["transformers", "later"]
    figures = {
        "first_token_over_transformers": theirs / whole["ours", "later"],
        "first_start_over_transformers": whole["transformers", "first"] / whole["ours", "first"],
        "exact_first_token_over_transformers": theirs / whole["ours, exact", "later"],
    }
    settings = {"checkpoint": CHECKPOINT, "dtype": "bfloat16", "prompt tokens": 32, "rounds": arguments.rounds}
    finish(Report(settings=settings, rows=rows, figures=figures), arguments.json)
    return 0


def _measure(folder: Path, num_rounds: int) -> Samples:
    """Start with everybody, the order turning by one from round to round."""
    names = list(CONTESTANTS)
    samples: Samples = defaultdict(list)
    for number in range(num_rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for start, (load_s, token_s) in zip(_STARTS, _two_starts(name, folder), strict=True):
                samples[name, start, "load"].append(load_s)
                samples[name, start, "first token"].append(token_s)
                samples[name, start, "both"].append(load_s + token_s)
                print(f"round {number + 1}: {name}, {start} start: {load_s:.3f} + {token_s:.3f} s", file=sys.stderr)
    return samples


def _two_starts(name: str, folder: Path) -> list[tuple[float, float]]:
    command = [sys.executable, "-m", "scripts.two_starts", name, str(folder)]
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise RuntimeError(f"{name}: it ended with {done.returncode}: {' / '.join(last)}")
    starts: list[tuple[float, float]] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return starts


if __name__ == "__main__":
    sys.exit(main())
