"""What was taken from npm is what its checksums say, and nothing else is served from there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("folder", ["webapp/static/vendor", "tests/browser/vendor"])
def test_vendored_files_are_those_that_were_checked(folder: str) -> None:
    expected = dict(
        reversed(line.split(maxsplit=1)) for line in (_ROOT / folder / "SHA256SUMS").read_text().splitlines()
    )
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (_ROOT / folder).iterdir()
        if path.suffix in {".js", ".css"}
    }
    assert there == expected
