"""What jobs keep when they move, at both levels, and what the level `exact` costs: in one process."""

from __future__ import annotations

from pathlib import Path

import torch

from scripts.bench_report import Report
from scripts.moves import cost, equality


def measure(scratch: Path, *, full: bool, device: str) -> Report:
    """Measure equality, then cost; `full` has more and longer jobs, a larger model and more rounds."""
    kept = equality.Effort(num_jobs=12 if full else 8, max_tokens=64 if full else 16)
    timed = cost.Effort(
        num_rounds=11 if full else 5,
        num_steps=16 if full else 6,
        prefill_tokens=256 if full else 128,
        num_layers=16 if full else 6,
    )
    parts = [equality.measure(scratch, kept, device), cost.measure(scratch, timed, device)]
    return Report(
        settings={
            "architectures": " ".join(equality.ARCHITECTURES),
            "batches": " ".join(map(str, equality.BATCHES)),
            "jobs": kept.num_jobs,
            "tokens": kept.max_tokens,
            "rounds": timed.num_rounds,
            "timed_layers": timed.num_layers,
            "device": device,
            "threads": torch.get_num_threads(),
        },
        rows=[row for rows, _ in parts for row in rows],
        figures={name: value for _, figures in parts for name, value in figures.items()},
    )
