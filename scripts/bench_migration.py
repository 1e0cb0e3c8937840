"""Measure live migration.

By default on a live cluster, two nodes of one gpu each: jobs of many lengths move beside others, and each is also
stopped and resumed, in a single round and by the router. With `--drain`, thirty jobs leave a node. With `--policies`, a
model starts whose checkpoint is in the DRAM of a busy node, by four policies. With `--exactness`, in one process: what
jobs keep when they move between engines, as bits, and what the level `exact` costs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from transformers.utils import logging as transformers_logging

from scripts.bench_report import Report, add_report_argument, finish
from scripts.moves import drains, exactness, pauses, startups
from scripts.moves.ways import Way

_TURN = (Way.MIGRATION, Way.SINGLE_ROUND, Way.MIGRATION, Way.RESTART)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--exactness", action="store_true", help="what jobs keep, and what `exact` costs")
    what.add_argument("--drain", action="store_true", help="thirty jobs leave a node")
    what.add_argument("--policies", action="store_true", help="who gives way to a model whose node is busy")
    parser.add_argument("--device", default="cpu", help="of --exactness")
    parser.add_argument("--full", action="store_true", help="more of everything")
    add_report_argument(parser)
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="sllm-bench-") as folder:
        finish(_measure(arguments, Path(folder)), arguments.json)


def _measure(arguments: argparse.Namespace, folder: Path) -> Report:
    if arguments.exactness:
        return exactness.measure(folder, full=arguments.full, device=arguments.device)
    if arguments.drain:
        return drains.measure(folder)
    if arguments.policies:
        return startups.measure(folder, num_rounds=10 if arguments.full else 5)
    grid = pauses.Grid(
        prompts=(32, 128, 512, 1024, 2048) if arguments.full else (32, 256, 1024, 2048),
        batches=(1, 2, 4, 8) if arguments.full else (1, 4, 8),
        turn=_TURN,
        num_turns=3 if arguments.full else 1,
    )
    return pauses.measure(folder, grid)


if __name__ == "__main__":
    main()
