"""Traces in files: a JSON object per line, the first with the name and duration of the trace."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sllm_tasks.errors import TraceError
from sllm_tasks.traces.records import Trace, TraceRequest

_HEADER_FIELDS = {"name", "duration_s"}
_REQUEST_FIELDS = {"arrival_s", "model", "input_tokens", "output_tokens"}


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace; raises TraceError."""
    lines = [json.dumps({"name": trace.name, "duration_s": trace.duration_s})]
    lines += [json.dumps(asdict(request)) for request in trace.requests]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{path} cannot be written: {error}") from error


def read_trace(path: Path) -> Trace:
    """Read a trace; raises TraceError that names the line which is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error
    if not lines:
        raise TraceError(f"{path} is empty")
    header = _fields(path, 1, lines[0], _HEADER_FIELDS)
    requests = tuple(_request(path, number, line) for number, line in enumerate(lines[1:], start=2))
    try:
        return Trace(name=str(header["name"]), duration_s=_number(header["duration_s"]), requests=requests)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error


def _request(path: Path, number: int, line: str) -> TraceRequest:
    fields = _fields(path, number, line, _REQUEST_FIELDS)
    try:
        return TraceRequest(
            arrival_s=_number(fields["arrival_s"]),
            model=str(fields["model"]),
            input_tokens=fields["input_tokens"],
            output_tokens=fields["output_tokens"],
        )
    except TraceError as error:
        raise TraceError(f"{path}: line {number}: {error}") from error


# Any: what a file holds is anything until it has been looked at.
def _fields(path: Path, number: int, line: str, names: set[str]) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: line {number} is no JSON: {error}") from error
    if not isinstance(fields, dict) or set(fields) != names:
        raise TraceError(f"{path}: line {number} must have {', '.join(sorted(names))} and nothing else")
    return fields


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TraceError(f"a time is a number of seconds, not {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise TraceError("a time is a number of seconds, not one of hundreds of digits") from error
