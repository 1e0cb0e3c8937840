"""Search for texts that the readers of checkpoints and safetensors files do not refuse as they should; run by hand.

The search is libFuzzer's: a text that reaches new lines of `loaders` is kept and altered further. What must hold is
what `scripts/fuzz_format` checks. The first finding ends the run with its input in `crash-*`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import atheris

# As they are imported, their lines are made to be counted.
with atheris.instrument_imports(include=["loaders"]):
    from scripts.fuzz_targets import Checkpoints, Headers, mutate, outcome_of

#: The first byte says what the rest is.
_INDEX, _CONTENT, _HEADER = range(3)


class _Targets:
    """Hands a text to the reader that it is for."""

    def __init__(self, folder: Path) -> None:
        self._checkpoints, self._headers = Checkpoints(folder), Headers(folder)

    def seeds(self) -> list[bytes]:
        """Return the texts to begin with, which are sound."""
        index, content = self._checkpoints.texts
        texts = {_INDEX: index, _CONTENT: content, _HEADER: self._headers.text}
        return [bytes([kind]) + text.encode() for kind, text in texts.items()]

    def __call__(self, data: bytes) -> None:
        kind = data[0] % 3 if data else _INDEX
        text = data[1:].decode(errors="replace")
        if kind == _INDEX:
            self._checkpoints.put_index(text)
        elif kind == _CONTENT:
            self._checkpoints.put_content(text)
        else:
            self._headers.put(data[1:])
        outcome_of(self._headers.open if kind == _HEADER else self._checkpoints.open)


def _altered(data: bytes, max_bytes: int, seed: int) -> bytes:
    """Every other time alter it as text; the fuzzer's own changes know bytes alone."""
    if seed % 2 or not data:
        return bytes(atheris.Mutate(data, max_bytes))
    text = mutate(data[1:].decode(errors="replace"), random.Random(seed))
    return (data[:1] + text.encode(errors="replace"))[:max_bytes]


def main() -> int:
    """Search until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        targets = _Targets(folder)
        (folder / "corpus").mkdir()
        for number, seed in enumerate(targets.seeds()):
            (folder / "corpus" / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={60 * options.minutes:.0f}", "-max_len=16384", "-timeout=10"]
        # What is sound is longer than what reaches the same lines, and is not to be replaced by that.
        flags = [f"-seed={options.seed}", "-reduce_inputs=0"]
        atheris.Setup([sys.argv[0], *limits, *flags, str(folder / "corpus")], targets, custom_mutator=_altered)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
