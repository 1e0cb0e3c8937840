"""API keys: making one, which is shown once, and revoking."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response, render_template, request

from sllm_tasks.ledger.keys import Scope, get_key, list_keys
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import Form, form_request, given_fields, read_form
from webapp.admin.pages import Context, page
from webapp.admin_changes import AdminChanges, MadeKey
from webapp.admin_json import key_json
from webapp.errors import InvalidFieldsError
from webapp.schemas.admin import KeyRequest
from webapp.services import services


@blueprint.get("/keys")
@needs(Role.ADMIN)
def keys() -> Response:
    """List keys."""
    return _show(Form(), HTTPStatus.OK)


@blueprint.post("/keys")
@needs(Role.ADMIN)
def create_key() -> Response:
    """Make a key and show it, for the only time."""
    try:
        wanted = read_form(KeyRequest, {**given_fields(), "scopes": request.form.getlist("scopes")})
    except InvalidFieldsError as error:
        return _show(Form.refused(error), HTTPStatus.UNPROCESSABLE_ENTITY)
    changes = AdminChanges(services().ledger, person(), form_request(person().tenant))
    return _show(Form(), HTTPStatus.CREATED, changes.create_key(wanted))


@blueprint.get("/keys/<key_id>/revoke")
@needs(Role.ADMIN)
def ask_revoke_key(key_id: str) -> Response:
    """Say what revoking would do."""
    with services().ledger.reading() as session:
        row = get_key(session, key_id)
    effects = (
        f"Whoever uses the key {row.name} ({row.id}) of tenant {row.tenant} is refused, within five seconds.",
        "Jobs that were submitted with it go on. It cannot be taken back.",
    )
    return Response(render_template("admin/confirm.html", title=f"Revoke {row.name}?", effects=effects, verb="Revoke"))


@blueprint.post("/keys/<key_id>/revoke")
@needs(Role.ADMIN)
def revoke_key(key_id: str) -> Response:
    """Make a key useless."""
    AdminChanges(services().ledger, person()).revoke_key(key_id)
    return see_other("keys", notice="revoked")


def _show(form: Form, status: HTTPStatus, made: MadeKey | None = None) -> Response:
    return page("keys", _context, status=status, form=form, scopes=list(Scope), made=made)


def _context() -> Context:
    with services().ledger.reading() as session:
        return {"keys": [key_json(row) for row in list_keys(session)]}
