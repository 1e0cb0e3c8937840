"""Azure's public LLM traces: TIMESTAMP, ContextTokens, GeneratedTokens (Splitwise, 2023; CC BY 4.0)."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

import numpy as np

from sllm_tasks.errors import TraceError
from sllm_tasks.traces.generate import check_seed, popularity
from sllm_tasks.traces.records import Trace, TraceRequest, check_tokens

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read_azure(path: Path, models: tuple[str, ...], *, zipf: float = 0.9, seed: int = 0) -> Trace:
    """Read a file; the trace is of one service, so each request gets one of the models by popularity, drawn by seed.

    Raises:
        TraceError: It is no such file, or a line of it is damaged; the message names the line. Or nothing can be drawn.

    """
    check_seed(seed)
    shares = popularity(len(models), zipf)
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(_rows(path, csv.DictReader(lines)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise TraceError(f"{path} holds no requests")
    rows.sort(key=lambda row: row[0])
    start_s = rows[0][0]
    rng = np.random.default_rng(seed)
    owners = rng.choice(len(models), size=len(rows), p=shares)
    requests = tuple(
        TraceRequest(
            arrival_s=time_s - start_s, model=models[owner], input_tokens=input_tokens, output_tokens=output_tokens
        )
        for (time_s, input_tokens, output_tokens), owner in zip(rows, owners, strict=True)
    )
    # The last request ends the trace, but a trace of one instant has no rate.
    return Trace(name=path.stem, duration_s=max(requests[-1].arrival_s, 1.0), requests=requests)


def _rows(path: Path, reader: csv.DictReader[str]) -> list[tuple[float, int, int]]:
    if reader.fieldnames is None or not set(_COLUMNS) <= set(reader.fieldnames):
        raise TraceError(f"{path} has no columns {', '.join(_COLUMNS)}")
    rows = []
    for row in reader:
        try:
            # Without a zone in the file: only differences of these times are used.
            time_s = datetime.fromisoformat(f"{row['TIMESTAMP']}+00:00").timestamp()
            input_tokens, output_tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            check_tokens("ContextTokens", input_tokens)
            check_tokens("GeneratedTokens", output_tokens)
        except (TypeError, ValueError, TraceError) as error:
            raise TraceError(f"{path}: line {reader.line_num}: {error}") from error
        rows.append((time_s, input_tokens, output_tokens))
    return rows
