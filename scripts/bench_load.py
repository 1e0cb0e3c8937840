"""Compare loaders: ours against what the disk gives and against other people's, in one run.

Every load is a fresh process, with its imports and a GPU's context before the clock and out of the garbage collector's
sight. It counts as done when every page of every tensor has been read, on a GPU when its copies are over. `ours` is the
product as it runs: the node's pool is resident before the load, for a GPU page-locked, and so is a worker;
`pool in the clock` allocates like everybody else. The digests of every chunk are checked, as in the product.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from math import isnan, nan
from pathlib import Path
from statistics import median

import torch

from loaders.devices.readiness import make_ready
from loaders.errors import PoolError
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.pool import Pool
from loaders.memory.pool_folder import remove_pool
from loaders.reading.pipeline import DEFAULT_THREADS
from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.load.ablation import ablation
from scripts.load.checkpoints import CHECKPOINTS, make
from scripts.load.contestants import READS, Files
from scripts.load.decoding import decode_during_load
from scripts.load.rounds import Ceiling, State, bring_about, load_once

#: With the template that a worker keeps of each kind of model, and without.
_WHOLE = ("ours, whole model", "ours, whole model built in the clock")
_OURS = ("ours", "ours, pool in the clock", "ours, direct safetensors", *_WHOLE)
_PEERS = ("safetensors", "torch.load", "torch.load, mmap", "runai")
_MORE_PEERS = ("transformers", "fastsafetensors", "tensorizer")
#: Reads go on in parallel with the others' forms of the same checkpoint: none is larger than this times the tensors.
_POOL_SLACK = 1.15

Samples = dict[str, list[float]]


def main() -> int:
    """Run the benchmark."""
    arguments = _arguments()
    folder = arguments.folder or Path(tempfile.gettempdir()) / "sllm-bench-load"
    folder.mkdir(parents=True, exist_ok=True)
    names = arguments.checkpoint or (list(CHECKPOINTS) if arguments.full else ["opt-1.3b"])
    rows: list[Row] = []
    figures: dict[str, float] = {}
    kinds = set()
    try:
        ceiling: Ceiling | None = Ceiling(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no ceiling: {error}; a C compiler is needed", file=sys.stderr)
        ceiling = None
    made = {name: make(name, folder, peers=arguments.full, pool_bytes=0, device=arguments.device) for name in names}
    for name, without_pool in made.items():
        files = _with_pool(without_pool)
        remove_pool(files.pool)
        with Pool.open(files.pool, files.pool_bytes) as pool:
            pool.prepare()
            kernels = make_ready(arguments.device, pool).backend
            kinds.add(str(pool.page_kind))
            if arguments.ablation:
                samples = ablation(files, pool, arguments.rounds)
            else:
                samples = _compare(files, pool, ceiling, arguments)
                if name == "opt-1.3b":
                    figures |= _figures(samples)
                    if not arguments.state:
                        figures["decode_during_load"] = decode_during_load(files, pool, arguments.rounds)
        remove_pool(files.pool)
        rows += [Row(f"{name}: {row}", "s", tuple(values)) for row, values in samples.items()]
    if not arguments.keep and arguments.folder is None:
        shutil.rmtree(folder)
    settings = {
        "rounds": arguments.rounds,
        "device": arguments.device,
        "pool pages": ", ".join(sorted(kinds)),
        "chunk_bytes": CHUNK_BYTES,
        "reader threads": DEFAULT_THREADS,
        "digests": "all chunks",
    }
    if arguments.device != "cpu":
        settings |= {"gpu": torch.cuda.get_device_name(arguments.device), "kernels": str(kernels)}
    finish(Report(settings=settings, rows=rows, figures=figures), arguments.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every contestant (default: 5)")
    parser.add_argument("--full", action="store_true", help="all peers and all checkpoints, not only the main ones")
    parser.add_argument(
        "--checkpoint",
        action="append",
        choices=list(CHECKPOINTS),
        help="what is loaded; may be given again (default: opt-1.3b, with --full all of them)",
    )
    parser.add_argument(
        "--state",
        action="append",
        choices=[state.name.lower() for state in State],
        help="what is in memory when the clock starts; may be given again (default: each in turn)",
    )
    parser.add_argument("--ablation", action="store_true", help="what each part of the loader gains, one after another")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu", help="cpu or cuda:<i>")
    parser.add_argument(
        "--folder", type=Path, help="where the checkpoints are made and kept; on the disk to be measured"
    )
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints for the next run")
    add_report_argument(parser)
    return parser.parse_args()


def _with_pool(files: Files) -> Files:
    largest = max(path.stat().st_size for path in (*files.converted.glob("*.bin"), files.safetensors))
    num_bytes = int(largest * _POOL_SLACK) + (64 << 20)
    return Files(**{name: getattr(files, name) for name in Files.__slots__} | {"pool_bytes": num_bytes})


def _compare(files: Files, pool: Pool, ceiling: Ceiling | None, arguments: argparse.Namespace) -> Samples:
    """Load with everybody in every state, the order turning by one from round to round."""
    contestants = [*_OURS, *_PEERS, *(("ours, packed", *_MORE_PEERS) if arguments.full else ())]
    # What cannot be written in somebody's form is not there.
    contestants = [name for name in contestants if all(path.is_file() for path in READS[name](files))]
    samples: Samples = defaultdict(list)
    checksums: dict[str, set[int]] = defaultdict(set)
    for state in State:
        if arguments.state and state.name.lower() not in arguments.state:
            continue
        for number in range(arguments.rounds):
            turned = contestants[number % len(contestants) :] + contestants[: number % len(contestants)]
            if ceiling is not None and state in {State.FOUND, State.BACKED}:
                bring_about(state, "ours", files, pool, ceiling)
                samples[f"ceiling ({state})"].append(ceiling.read_s(next(files.converted.glob("*.bin"))))
            for contestant in turned:
                try:
                    bring_about(state, contestant, files, pool, ceiling)
                    sample = load_once(contestant, files, state)
                except RuntimeError as error:
                    print(f"left out: {error}", file=sys.stderr)
                    contestants.remove(contestant)
                    continue
                print(f"{state}, round {number + 1}: {contestant} {sample.resident_s:.3f} s", file=sys.stderr)
                samples[f"{contestant} ({state})"].append(sample.resident_s)
                checksums[contestant].add(sample.checksum)
    different = {name: found for name, found in checksums.items() if found != checksums["safetensors"]}
    # A model's state dict names tied weights twice, so what is added up there is more.
    different = {name: found for name, found in different.items() if name not in {*_WHOLE, "transformers"}}
    if different:
        raise RuntimeError(f"not everybody loaded the same bytes: {different}, safetensors {checksums['safetensors']}")
    return samples


def _figures(samples: Samples) -> dict[str, float]:
    """Ratios of medians: above 1 we are faster than who is named; the last two are a whole model's time in the bytes'.

    Those of a state that was left out are not there.
    """
    middle = {name: median(values) for name, values in samples.items()}

    def seconds(name: str, state: State = State.BACKED) -> float:
        return middle.get(f"{name} ({state})", nan)

    peers = [seconds(peer, State.FOUND) for peer in (*_PEERS, *_MORE_PEERS) if f"{peer} ({State.FOUND})" in middle]
    figures = {
        "cold_over_ceiling": seconds("ceiling") / seconds("ours"),
        "cold_over_safetensors": seconds("safetensors") / seconds("ours"),
        "cold_over_torch_load": seconds("torch.load") / seconds("ours"),
        "cold_over_runai": seconds("runai") / seconds("ours"),
        "inclock_over_runai": seconds("runai") / seconds("ours, pool in the clock"),
        "direct_over_ceiling": seconds("ceiling") / seconds("ours, direct safetensors"),
        "found_over_best_peer": min(peers, default=nan) / seconds("ours", State.FOUND),
        "warm_over_safetensors": seconds("safetensors", State.WARM) / seconds("ours", State.WARM),
        "cached_over_safetensors": seconds("safetensors", State.CACHED) / seconds("ours", State.CACHED),
        "ready_over_bytes": seconds("ours, whole model built in the clock") / seconds("ours"),
        "filled_over_bytes": seconds("ours, whole model") / seconds("ours"),
    }
    return {name: value for name, value in figures.items() if not isnan(value)}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PoolError as error:
        sys.exit(f"bench_load: {error}")
