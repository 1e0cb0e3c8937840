"""Look at a checkpoint in a process of its own: `python -m sllm_tasks.node_agent.inspection DIRECTORY`.

Torch and transformers stay out of the agent, and a checkpoint that crashes or bloats them takes only this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sllm_tasks.errors import ErrorCode, ModelUnusableError

_TIMEOUT_S = 600


def inspect_apart(path: Path) -> dict[str, Any]:
    """Describe a checkpoint (fields of `loaders.inspect.CheckpointSummary`); raises ModelUnusableError."""
    command = [sys.executable, "-m", __name__, str(path)]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False, env=environ)
    except subprocess.TimeoutExpired as error:
        message = f"the checkpoint could not be checked within {_TIMEOUT_S} s"
        raise ModelUnusableError(ErrorCode.CHECKPOINT_UNSUPPORTED, message) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        message = f"the checkpoint could not be checked (status {done.returncode}): {last[:300]}"
        raise ModelUnusableError(ErrorCode.CHECKPOINT_CORRUPT, message) from error
    if "code" in answer:
        raise ModelUnusableError(ErrorCode(answer["code"]), answer["message"])
    summary: dict[str, Any] = answer
    return summary


def main() -> int:
    """Print a checkpoint's summary, or why it cannot be served, as JSON."""
    from loaders import errors  # noqa: PLC0415 - the agent imports this module, and must not import torch
    from loaders.inspect import inspect  # noqa: PLC0415

    try:
        answer: dict[str, Any] = asdict(inspect(Path(sys.argv[1])))
    except errors.CheckpointUnsupportedError as error:
        answer = {"code": ErrorCode.CHECKPOINT_UNSUPPORTED, "message": str(error)}
    except errors.TokenizerMissingError as error:
        answer = {"code": ErrorCode.TOKENIZER_MISSING, "message": str(error)}
    except errors.LoaderError as error:
        # Missing files too: the directory is there, so no other node has to be asked.
        answer = {"code": ErrorCode.CHECKPOINT_CORRUPT, "message": str(error)}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
