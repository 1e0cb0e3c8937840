"""Tenants: how much each may have, and its share when there is not enough for all."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response, request
from pydantic import TypeAdapter, ValidationError

from sllm_tasks.ledger.jobs import count_active
from sllm_tasks.ledger.queues import list_tenants
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import Form, given_fields, read_form
from webapp.admin.pages import Context, page
from webapp.admin_changes import AdminChanges
from webapp.admin_json import tenant_json
from webapp.errors import FieldError, InvalidFieldsError
from webapp.schemas.admin import TenantRequest
from webapp.schemas.fields import TenantName
from webapp.services import services

_TENANT_NAME: TypeAdapter[str] = TypeAdapter(TenantName)


@blueprint.get("/tenants")
@needs(Role.ADMIN)
def tenants() -> Response:
    """List tenants, with a form to set what holds for one."""
    return _show(Form(values={"name": request.args.get("name", "")}), HTTPStatus.OK)


@blueprint.post("/tenants")
@needs(Role.ADMIN)
def put_tenant() -> Response:
    """Say what holds for a tenant; an empty field goes back to its default."""
    fields = given_fields()
    try:
        name = _checked_name(str(fields.pop("name", "")))
        AdminChanges(services().ledger, person()).put_tenant(name, read_form(TenantRequest, fields))
    except InvalidFieldsError as error:
        return _show(Form.refused(error), HTTPStatus.UNPROCESSABLE_ENTITY)
    return see_other("tenants", notice="tenant")


def _checked_name(name: str) -> str:
    try:
        return _TENANT_NAME.validate_python(name.strip())
    except ValidationError:
        detail = "must be 1 to 63 of a-z 0-9 _ - beginning with a letter or a digit"
        raise InvalidFieldsError((FieldError(pointer="/name", detail=detail, code="name"),)) from None


def _show(form: Form, status: HTTPStatus) -> Response:
    defaults = {name: field.default for name, field in TenantRequest.model_fields.items()}
    known = next((each for each in _listed() if each["id"] == form.values.get("name")), {})
    return page("tenants", _context, status=status, form=form, known={**defaults, **known})


def _context() -> Context:
    return {"tenants": _listed(), "limits": list(TenantRequest.model_fields)}


def _listed() -> list[dict[str, object]]:
    with services().ledger.reading() as session:
        return [{**tenant_json(row), "num_active": count_active(session, row.id)} for row in list_tenants(session)]
