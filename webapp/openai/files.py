"""`/v1/files`: what batches read and write."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import IO, Final

from flask import Blueprint, Response, jsonify, request
from pydantic import ValidationError

from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.ids import new_id
from sllm_tasks.ledger.files import (
    PART_BYTES,
    FileWriter,
    NewFile,
    delete_file,
    get_file,
    list_files,
    read_content,
    stored_bytes,
)
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.tables import FileRow
from webapp.auth import caller, requires
from webapp.errors import FieldError, InvalidFieldsError
from webapp.field_errors import invalid_fields
from webapp.incoming import keyed_request, page_request, read_query
from webapp.outgoing import list_json, replayed
from webapp.schemas.openai_files import FileForm, FilesQuery
from webapp.services import WebServices, services

blueprint = Blueprint("openai_files", __name__, url_prefix="/v1/files")

#: What a form may have around its file.
_FORM_BYTES: Final = 64 * 1024
#: Files that a tenant may keep, as a multiple of the largest one.
_MAX_LARGEST_FILES: Final = 16


@blueprint.post("")
@requires(Scope.JOBS_WRITE)
def post_file() -> Response:
    """Keep a file."""
    web, tenant = services(), caller().tenant
    request.max_content_length = web.settings.max_file_bytes + _FORM_BYTES
    form = _read_form()
    upload = request.files.get("file")
    if upload is None:
        raise InvalidFieldsError((FieldError(pointer="file", detail="is required", code="missing"),))
    now = datetime.now(UTC)
    new = NewFile(
        id=new_id("file"),
        tenant=tenant,
        filename=(upload.filename or "file")[-255:],
        purpose=form.purpose,
        created_at=now,
        expires_at=now + timedelta(seconds=form.life_s),
    )
    file_id = _store(web, new, upload.stream)
    response = jsonify(_file_json(_find(file_id)))
    return response if file_id == new.id else replayed(response)


@blueprint.get("")
@requires(Scope.JOBS_READ)
def get_files() -> Response:
    """List the tenant's files."""
    query = read_query(FilesQuery)
    with services().ledger.reading() as session:
        page = list_files(session, caller().tenant, page_request(query), purpose=query.purpose)
    return jsonify(list_json([_file_json(row) for row in page.rows], has_more=page.has_more))


@blueprint.get("/<file_id>")
@requires(Scope.JOBS_READ)
def get_one(file_id: str) -> Response:
    """Read what is known of a file."""
    return jsonify(_file_json(_find(file_id)))


@blueprint.get("/<file_id>/content")
@requires(Scope.JOBS_READ)
def get_content(file_id: str) -> Response:
    """Read a file."""
    row = _find(file_id)
    response = Response(read_content(services().ledger, row.id), mimetype="application/octet-stream")
    response.content_length = row.num_bytes
    return response


@blueprint.delete("/<file_id>")
@requires(Scope.JOBS_WRITE)
def delete_one(file_id: str) -> Response:
    """Delete a file that no batch is yet to read."""
    row = _find(file_id)
    with services().ledger.transaction() as session:
        if not delete_file(session, row.id, row.tenant):
            raise ConflictError("a batch is still reading this file; cancel the batch first")
    return jsonify({"id": row.id, "object": "file", "deleted": True})


def _find(file_id: str) -> FileRow:
    with services().ledger.reading() as session:
        row = get_file(session, file_id, caller().tenant)
    if row is None:
        raise NotFoundError("there is no such file")
    return row


def _read_form() -> FileForm:
    try:
        return FileForm.model_validate(request.form.to_dict())
    except ValidationError as error:
        raise invalid_fields(error, "/") from None


def _store(web: WebServices, new: NewFile, content: IO[bytes]) -> str:
    """Write a file part by part, unless an earlier sending of the request has; the id of what was written.

    A sender that breaks off leaves nothing behind.
    """
    with web.ledger.reading() as session:
        room = web.settings.max_file_bytes * _MAX_LARGEST_FILES - stored_bytes(session, new.tenant)
    writer = FileWriter(web.ledger, new)
    # Not of the body: whoever sends a form again draws another boundary for its parts.
    digest = hashlib.sha256(f"{new.purpose}/{new.filename}/".encode())
    while piece := content.read(PART_BYTES):
        writer.write(piece)
        digest.update(piece)
        if writer.num_bytes > room:
            detail = "does not fit beside the files that are kept; delete some"
            raise InvalidFieldsError((FieldError(pointer="file", detail=detail, code="storage"),))
    if not writer.num_bytes:
        raise InvalidFieldsError((FieldError(pointer="file", detail="is empty", code="too_short"),))
    writer.flush()
    now, request_again = datetime.now(UTC), keyed_request(new.tenant, digest.digest())
    with web.ledger.transaction() as session:
        first = None if request_again is None else request_again.claim(session, new.id, now)
        if first is None:
            writer.complete(session, now)
    return first or new.id


def _file_json(row: FileRow) -> dict[str, object]:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.num_bytes,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": int(row.expires_at.timestamp()),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
    }
