"""Files that a command writes: what cannot be written is refused before the work, not behind it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class ResultFile(click.Path):
    """A path at which there is a file that may be written, or a folder in which one may be made."""

    def __init__(self) -> None:
        """Commands get it as a Path."""
        super().__init__(path_type=Path, dir_okay=False, writable=True, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Read a path; refuses one that nothing can be written to."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        # What is there already was looked at above.
        if not path.exists():
            if not path.parent.is_dir():
                self.fail(f"{path} cannot be written: {path.parent} is no folder.", param, ctx)
            if not os.access(path.parent, os.W_OK | os.X_OK):
                self.fail(f"{path} cannot be written: {path.parent} may not be written in.", param, ctx)
        return path
