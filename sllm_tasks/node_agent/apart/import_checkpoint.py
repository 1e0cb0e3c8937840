"""Check a checkpoint, a directory or a URL, and write it into the store in our own format."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loaders.errors import CheckpointExistsError, ConversionBusyError
from loaders.format.geometry import TENSOR_INDEX
from loaders.format.manifest import Manifest
from loaders.format.verify import verify
from loaders.inspect import CheckpointSummary, inspect, inspect_source
from loaders.remote.importing import Conversion, Stage, import_checkpoint
from loaders.remote.source import open_remote
from loaders.remote.url import is_url, parse_url
from loaders.shares import device_shares
from loaders.source import open_source
from loaders.writer.convert import convert
from loaders.writer.layout import plan_layout
from loaders.writer.receive import ROOM_FOR_SMALL_FILES, LocalSupplier, num_needed_bytes, receive
from loaders.writer.safetensors_source import SafetensorsSource
from sllm_tasks.failpoints import failpoint
from sllm_tasks.node_agent.apart.link import Agent, serve

#: How often to see whether another process has let go of what is to be made.
_BUSY_S = 0.2


def run(request: dict[str, Any], agent: Agent) -> dict[str, Any]:
    """Import `source` to `destination` for replicas over `num_gpus`.

    Returns a summary (`loaders.inspect.CheckpointSummary`), the manifest's digest, and what each gpu will hold.
    """
    destination, num_gpus = Path(request["destination"]), int(request["num_gpus"])
    if is_url(request["source"]):
        summary, manifest = _from_url(request["source"], destination, num_gpus, agent)
    else:
        summary, manifest = _from_directory(Path(request["source"]), destination, num_gpus, agent)
    with open_source(destination) as made:
        shares = device_shares(made, num_gpus)
    return {
        **asdict(summary),
        "gpu_shares": [asdict(share) for share in shares],
        "digest": manifest.digest,
        "num_partitions": len(manifest.content.partitions),
    }


def _from_directory(source: Path, destination: Path, num_gpus: int, agent: Agent) -> tuple[CheckpointSummary, Manifest]:
    summary = inspect(source)
    if (source / TENSOR_INDEX).is_file():
        # Its partitions stay as they are; loads divide it anew if it was written for another number of gpus.
        return summary, _made(lambda: _copy(source, destination, agent), destination)
    return summary, _made(lambda: _convert(source, destination, num_gpus, agent), destination)


def _from_url(url: str, destination: Path, num_gpus: int, agent: Agent) -> tuple[CheckpointSummary, Manifest]:
    with open_remote(parse_url(url)) as remote:
        # What cannot be served is not fetched.
        inspect_source(remote.source, str(parse_url(url)))
        # What is not in our format is kept as it came until it is converted.
        num_copies = 1 if remote.manifest else 2
        conversion = None if remote.manifest else Conversion(num_partitions=num_gpus)
        agent.ask_room(num_copies * remote.source.plan.num_bytes + ROOM_FOR_SMALL_FILES)
    tell = _progress(agent)

    def on_progress(stage: Stage, done_bytes: int, total_bytes: int) -> None:
        before_bytes = total_bytes if stage is Stage.CONVERT else 0
        tell(before_bytes + done_bytes, num_copies * total_bytes)

    manifest = _made(
        lambda: import_checkpoint(url, destination, conversion=conversion, on_progress=on_progress), destination
    )
    # Of what came: it may have been replaced at its URL since.
    return inspect(destination), manifest


def _convert(source: Path, destination: Path, num_partitions: int, agent: Agent) -> Manifest:
    with SafetensorsSource(source) as opened:
        layout = plan_layout(opened.tensors, opened.storage_bytes, num_partitions=num_partitions)
        small = sum(len(data) for data in opened.model_files.values()) + ROOM_FOR_SMALL_FILES
    agent.ask_room(sum(layout.sizes) + small)
    return convert(source, destination, num_partitions=num_partitions, on_progress=_progress(agent))


def _copy(source: Path, destination: Path, agent: Agent) -> Manifest:
    verify(source, on_progress=agent.progress)
    with LocalSupplier(source) as supplier:
        agent.ask_room(num_needed_bytes(supplier.manifest))
        return receive(supplier, destination, on_progress=_progress(agent))


def _progress(agent: Agent) -> Callable[[int, int], None]:
    num_chunks = 0

    def tell(done_bytes: int, total_bytes: int) -> None:
        nonlocal num_chunks
        num_chunks += 1
        failpoint("import.chunk", num_chunks)
        agent.progress(done_bytes, total_bytes)

    return tell


def _made(work: Callable[[], Manifest], destination: Path) -> Manifest:
    """Do work that makes a checkpoint, once nobody else does."""
    while True:
        try:
            return work()
        except ConversionBusyError:
            # A process of an agent that was killed a moment ago.
            time.sleep(_BUSY_S)
        except CheckpointExistsError:
            # Left by an import that died before its last step, of what the source was then.
            shutil.rmtree(destination)


if __name__ == "__main__":
    sys.exit(serve(run))
