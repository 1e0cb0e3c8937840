"""Feed altered checkpoints and safetensors headers to their readers for some minutes; run by hand.

What must hold for every input: it is opened or refused with a LoaderError, within a second of processor time; the
process does not grow by more than 64 MiB; what is opened lies within its files, and is written back as it was read.
Most checkpoints are altered behind the digests, so that they get to the parsers.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from scripts.fuzz_targets import Checkpoints, Headers, outcome_of

_MAX_GROWTH_MIB = 64


def _resident_mib() -> float:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * 4096 / (1 << 20)


def main() -> int:
    """Run until the time is over; stop at the first input for which something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        targets: list[Checkpoints | Headers] = [Checkpoints(Path(name)), Headers(Path(name))]
        end, number, resident = time.monotonic() + 60 * options.minutes, 0, 0.0
        while time.monotonic() < end:
            chance = random.Random(f"{options.seed} {number}")
            target = targets[number % 2]
            try:
                target.alter(chance)
                outcomes[f"{type(target).__name__}: {outcome_of(target.open)}"] += 1
                resident = resident or _resident_mib()
                assert _resident_mib() - resident < _MAX_GROWTH_MIB, "memory grows"
            except Exception:
                print(f"seed {options.seed}, input {number}", file=sys.stderr)
                raise
            number += 1
    print(f"seed {options.seed}: {number} inputs in {options.minutes:g} minutes")
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>9}  {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
