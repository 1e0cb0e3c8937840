"""What goes to standard output: tables for people, JSON for programs. Everything else goes to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: A JSON object of the API, passed on as it is.
Json = Mapping[str, Any]


def output_option(command: _Command) -> _Command:
    """Add `-o table|json`, which arrives as `output`."""
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Form of the output."
    )(command)


def show_list(output: str, rows: Sequence[Json], columns: Mapping[str, Callable[[Json], object]]) -> None:
    """Print objects whole as JSON, or the given columns of them as a table."""
    if output == "json":
        show_json(list(rows))
        return
    lines = [list(columns), *([_cell(read(row)) for read in columns.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_one(output: str, record: Json) -> None:
    """Print one object as JSON, or a line per field."""
    if output == "json":
        show_json(record)
        return
    width = max(map(len, record), default=0)
    for name, value in record.items():
        if value is not None:
            click.echo(f"{name.ljust(width)}  {_cell(value)}")


def show_json(value: object) -> None:
    """Print JSON."""
    # Elsewhere what cannot be written would be replaced, and the JSON would say something else.
    is_unicode = getattr(sys.stdout, "encoding", "utf-8").lower().startswith("utf")
    click.echo(json.dumps(value, indent=2, ensure_ascii=not is_unicode))


def note(text: str) -> None:
    """Tell the person in front of the terminal what happens."""
    click.echo(text, err=True)


def human_bytes(num_bytes: int) -> str:
    """Write a size with three digits."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping | list) else str(value)
