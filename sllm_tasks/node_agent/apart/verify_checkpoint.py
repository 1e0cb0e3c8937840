"""Read all of a stored checkpoint and compare it with its digests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from loaders.errors import CheckpointCorruptError
from loaders.format.verify import verify
from sllm_tasks.node_agent.apart.link import Agent, serve


def run(request: dict[str, Any], agent: Agent) -> dict[str, Any]:
    """Verify the checkpoint at `path`, whose digest is to be `digest`."""
    manifest = verify(Path(request["path"]), on_progress=agent.progress)
    if manifest.digest != request["digest"]:
        raise CheckpointCorruptError(f"{request['path']}: holds checkpoint {manifest.digest}")
    return {"num_bytes": manifest.num_bytes}


if __name__ == "__main__":
    sys.exit(serve(run))
