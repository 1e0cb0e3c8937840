"""`/api/v1/tenants`: how much each tenant may have, and its share when there is not enough for all."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from pydantic import TypeAdapter, ValidationError

from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.queues import list_tenants
from webapp.admin_changes import AdminChanges
from webapp.admin_json import tenant_json
from webapp.auth import caller, requires
from webapp.errors import FieldError, InvalidFieldsError
from webapp.incoming import read_body
from webapp.outgoing import list_json
from webapp.schemas.admin import TenantRequest
from webapp.schemas.fields import TenantName
from webapp.services import services

blueprint = Blueprint("tenants", __name__, url_prefix="/api/v1/tenants")

_TENANT_NAME: TypeAdapter[str] = TypeAdapter(TenantName)


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_tenants() -> Response:
    """List all tenants."""
    with services().ledger.reading() as session:
        data = [tenant_json(row) for row in list_tenants(session)]
    return jsonify(list_json(data))


@blueprint.put("/<name>")
@requires(Scope.ADMIN_WRITE)
def put_one(name: str) -> Response:
    """Say what holds for a tenant; it takes effect within five seconds."""
    try:
        _TENANT_NAME.validate_python(name)
    except ValidationError:
        error = FieldError(pointer="name", detail="is not a name of a tenant", code="string_pattern_mismatch")
        raise InvalidFieldsError((error,)) from None
    row = AdminChanges(services().ledger, caller()).put_tenant(name, read_body(TenantRequest))
    return jsonify(tenant_json(row))
