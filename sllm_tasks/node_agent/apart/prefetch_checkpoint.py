"""Bring a stored checkpoint into the node's pool, and keep it there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from loaders.memory.pool import Pool
from loaders.prefetch import prefetch
from sllm_tasks.node_agent.apart.link import Agent, serve


def run(request: dict[str, Any], agent: Agent) -> dict[str, Any]:
    """Prefetch the checkpoint at `path` into the pool at `pool_folder`, of `pool_bytes`."""
    with Pool.open(Path(request["pool_folder"]), request["pool_bytes"]) as pool:
        done = prefetch(
            Path(request["path"]),
            pool,
            keep=True,
            on_progress=lambda progress: agent.progress(progress.done_bytes, progress.total_bytes),
        )
    return {"num_bytes": done.total_bytes, "read_bytes": done.read_bytes, "seconds": done.seconds}


if __name__ == "__main__":
    sys.exit(serve(run))
