"""`/v1/batches`: files of requests that are worked off when there is room."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from flask import Blueprint, Response, jsonify
from sqlalchemy.orm import Session

from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.ids import new_id
from sllm_tasks.ledger.batches import NewBatch, add_batch, get_batch, list_batches, note_canceling_batch
from sllm_tasks.ledger.files import get_file
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.states import BatchStatus
from sllm_tasks.ledger.tables import BatchRow
from webapp.auth import caller, requires
from webapp.errors import FieldError, InvalidFieldsError
from webapp.incoming import keyed_request, page_request, read_body, read_query
from webapp.openai.batch_json import batch_json
from webapp.outgoing import list_json, replayed
from webapp.schemas.openai_files import BatchesQuery, BatchRequest
from webapp.services import services

blueprint = Blueprint("openai_batches", __name__, url_prefix="/v1/batches")

_SECONDS: Final[Mapping[str, int]] = {"h": 3600, "m": 60, "s": 1}


@blueprint.post("")
@requires(Scope.JOBS_WRITE)
def post_batch() -> Response:
    """Have the requests of a file answered."""
    body, tenant, now = read_body(BatchRequest), caller().tenant, datetime.now(UTC)
    new = NewBatch(
        id=new_id("batch"),
        tenant=tenant,
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        metadata=body.metadata,
        created_at=now,
        expires_at=now + timedelta(seconds=int(body.completion_window[:-1]) * _SECONDS[body.completion_window[-1]]),
    )
    request_again = keyed_request(tenant)
    with services().ledger.transaction() as session:
        first = request_again.claim(session, new.id, now) if request_again is not None else None
        row = _read(session, first) if first is not None else _add(session, new)
        response = jsonify(batch_json(row))
    return replayed(response) if first is not None else response


@blueprint.get("")
@requires(Scope.JOBS_READ)
def get_batches() -> Response:
    """List the tenant's batches."""
    query = read_query(BatchesQuery)
    with services().ledger.reading() as session:
        page = list_batches(session, caller().tenant, page_request(query))
    return jsonify(list_json([batch_json(row) for row in page.rows], has_more=page.has_more))


@blueprint.get("/<batch_id>")
@requires(Scope.JOBS_READ)
def get_one(batch_id: str) -> Response:
    """Read a batch."""
    with services().ledger.reading() as session:
        return jsonify(batch_json(_read(session, batch_id)))


@blueprint.post("/<batch_id>/cancel")
@requires(Scope.JOBS_WRITE)
def cancel_batch(batch_id: str) -> Response:
    """Stop a batch; what was answered so far can be had."""
    with services().ledger.transaction() as session:
        row = _read(session, batch_id)
        if not note_canceling_batch(session, batch_id, now=datetime.now(UTC)) and not _is_canceled(row):
            raise ConflictError(f"a batch that is {row.status} cannot be cancelled")
        return jsonify(batch_json(_read(session, batch_id)))


def _is_canceled(row: BatchRow) -> bool:
    return row.status in {BatchStatus.CANCELING, BatchStatus.CANCELED}


def _add(session: Session, new: NewBatch) -> BatchRow:
    file = get_file(session, new.input_file_id, new.tenant)
    if file is None or file.purpose != "batch":
        detail = "is not the id of a file with the purpose batch"
        raise InvalidFieldsError((FieldError(pointer="/input_file_id", detail=detail, code="file_not_found"),))
    return add_batch(session, new)


def _read(session: Session, batch_id: str) -> BatchRow:
    row = get_batch(session, batch_id, caller().tenant)
    if row is None:
        raise NotFoundError("there is no such batch")
    return row
