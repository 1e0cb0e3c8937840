"""The audit trail as a file, for those who keep it elsewhere: CSV or JSON lines, as far as a search goes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from flask import Response, request, stream_with_context

from sllm_tasks.errors import NotFoundError
from sllm_tasks.ledger.audit import list_audit
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.tables import AuditRow
from webapp.admin.access import needs
from webapp.admin.blueprint import blueprint
from webapp.outgoing import time_json
from webapp.services import services

_PAGE: Final = 500
_COLUMNS: Final = ("id", "at", "actor", "tenant", "action", "target", "before", "after", "request_id", "note")
#: What spreadsheets take for the beginning of a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@blueprint.get("/audit/export.<kind>")
@needs(Role.VIEWER)
def export_audit(kind: str) -> Response:
    """Send all entries that match, oldest first."""
    if kind not in _FORMS:
        raise NotFoundError(f"the audit trail is exported as {' or '.join(_FORMS)}")
    mimetype, written = _FORMS[kind]
    target, actor = request.args.get("target") or None, request.args.get("actor") or None
    response = Response(stream_with_context(written(_entries(target, actor))), mimetype=mimetype)
    response.headers["Content-Disposition"] = f'attachment; filename="audit.{kind}"'
    return response


def _entries(target: str | None, actor: str | None) -> Iterator[Mapping[str, object]]:
    after: str | None = None
    while True:
        asked = PageRequest(limit=_PAGE, after=after, newest_first=False)
        with services().ledger.reading() as session:
            found = list_audit(session, asked, target=target, actor=actor)
        yield from map(_entry, found.rows)
        if not found.has_more:
            return
        after = found.rows[-1].id


def _entry(row: AuditRow) -> Mapping[str, object]:
    return {name: time_json(row.at) if name == "at" else getattr(row, name) for name in _COLUMNS}


def _json_lines(entries: Iterator[Mapping[str, object]]) -> Iterator[str]:
    for entry in entries:
        yield json.dumps(entry, ensure_ascii=False) + "\n"


def _csv(entries: Iterator[Mapping[str, object]]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(_COLUMNS)
    for entry in entries:
        writer.writerow([_cell(entry[name]) for name in _COLUMNS])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(_FORMULA) else text


_FORMS: Final[Mapping[str, tuple[str, Callable[[Iterator[Mapping[str, object]]], Iterator[str]]]]] = {
    "csv": ("text/csv", _csv),
    "jsonl": ("application/jsonl", _json_lines),
}
