"""Log lines as JSON have the ids that they are about, wherever these are from."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from sllm_tasks.ids import new_id
from sllm_tasks.logs import JsonFormatter, bound
from sllm_tasks.traceparent import trace_id, valid_traceparent

_TRACE = "0af7651916cd43dd8448eb211c80319c"
_PARENT = f"00-{_TRACE}-b7ad6b7169203331-01"


def line(message: str, *args: object, **extra: Any) -> dict[str, Any]:
    record = logging.LogRecord("sllm", logging.INFO, __file__, 1, message, args, extra.get("exc_info"))
    written = JsonFormatter().format(record)
    assert "\n" not in written
    read: dict[str, Any] = json.loads(written)
    return read


def test_ids_that_a_message_names_become_fields() -> None:
    job, replica = new_id("job"), new_id("replica")
    found = line("job %s: load on %s, not %s", job, replica, new_id("job"))
    assert (found["job_id"], found["replica_id"]) == (job, replica)


def test_what_a_thread_works_on_is_in_its_lines_and_outranks_what_they_name() -> None:
    with bound(job_id="job_1", attempt=2, trace_id=None), bound(request_id="req_1"):
        found = line("%s", new_id("job"))
    assert (found["job_id"], found["attempt"], found["request_id"], "trace_id" in found) == ("job_1", 2, "req_1", False)
    assert "job_id" not in line("afterwards")


def test_an_exception_is_in_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        assert "ValueError: why" in line("failed", exc_info=sys.exc_info())["exception"]


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (_PARENT, _TRACE),
        (_PARENT.replace("00-", "ff-", 1), None),
        (_PARENT.upper(), None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (_PARENT + "-more", None),
        ("", None),
    ],
)
def test_a_traceparent_is_taken_only_as_the_standard_writes_it(header: str, trace: str | None) -> None:
    assert trace_id(valid_traceparent(header)) == trace
