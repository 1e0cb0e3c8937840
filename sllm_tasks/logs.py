"""One line per log record, the same in every process; prompts and secrets are never logged.

Lines for people are short. As JSON a line also has the ids that it is about: those that its thread has `bound`, and
those that its message names, which tell by themselves what they are of.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

from sllm_tasks.config import Settings
from sllm_tasks.ids import id_pattern

_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname).1s %(name)s: %(message)s"
#: Field of an id, by its kind.
_FIELDS: Final = {
    "req": "request_id",
    "job": "job_id",
    "op": "operation_id",
    "migration": "migration_id",
    "replica": "replica_id",
    "worker": "worker_id",
    "batch": "batch_id",
}
_ID: Final = re.compile(rf"\b(?:{'|'.join(map(id_pattern, _FIELDS))})\b")

_bound: ContextVar[dict[str, str | int]] = ContextVar("bound", default={})  # noqa: B039 - never changed in place


def set_up(settings: Settings) -> None:
    """Send the package's records to standard error, and Celery's from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = settings.log_format == "json"
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(_FORMAT, "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in ("celery", "kombu", "alembic", "amqp", "transformers", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))


def bind(**ids: str | int | None) -> None:
    """Say what this thread works on from now on, in place of what it worked on before."""
    _bound.set({name: value for name, value in ids.items() if value is not None})


@contextmanager
def bound(**ids: str | int | None) -> Iterator[None]:
    """Say what this thread works on inside of the block, beside what surrounds it."""
    token = _bound.set(_bound.get() | {name: value for name, value in ids.items() if value is not None})
    try:
        yield
    finally:
        _bound.reset(token)


class JsonFormatter(logging.Formatter):
    """A JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record with its ids."""
        message = record.getMessage()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
            "process": record.process,
            "thread": record.threadName,
            **_named_in(message),
            **_bound.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _named_in(message: str) -> dict[str, str]:
    """The first id of each kind."""
    found = reversed(_ID.findall(message))
    return {_FIELDS[each.partition("_")[0]]: each for each in found}
