"""Damage to files, as disks and people do it."""

from __future__ import annotations

from pathlib import Path


def flip_bit(path: Path, offset: int) -> None:
    """Change one bit of a published, hence read-only, file."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    path.chmod(0o444)
