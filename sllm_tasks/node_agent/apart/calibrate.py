"""Measure what a node's tiers deliver, without the page cache."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loaders.bandwidth import measure_disk, measure_memory
from sllm_tasks.node_agent.apart.link import Agent, serve


def run(request: dict[str, Any], agent: Agent) -> dict[str, Any]:
    """Measure the disk that the files `paths` are on, and memory."""
    disk = measure_disk([Path(path) for path in request["paths"]])
    agent.progress(1, 2)
    return {"ssd": asdict(disk), "dram": asdict(measure_memory())}


if __name__ == "__main__":
    sys.exit(serve(run))
