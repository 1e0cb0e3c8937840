"""Models: what can be asked for, deploying and deleting it."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response, render_template
from pydantic import TypeAdapter, ValidationError

from sllm_tasks.ledger.inventory import get_model
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import Form, form_request, given_fields, read_form
from webapp.admin.pages import Context, page
from webapp.admin_changes import AdminChanges
from webapp.admin_lists import models_now, nodes_now
from webapp.errors import FieldError, InvalidFieldsError
from webapp.schemas.admin import ModelRequest
from webapp.schemas.fields import ModelName
from webapp.services import services

_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ModelName)


@blueprint.get("/models")
@needs(Role.VIEWER)
def models() -> Response:
    """List models, with a form to deploy one."""
    return _show(Form(), HTTPStatus.OK)


@blueprint.post("/models")
@needs(Role.ADMIN)
def deploy() -> Response:
    """Deploy a model, or deploy it again with other settings."""
    fields = given_fields()
    try:
        name = _checked_name(fields.pop("name", ""))
        started = _changes().put_model(name, read_form(ModelRequest, fields))
    except InvalidFieldsError as error:
        return _show(Form.refused(error), HTTPStatus.UNPROCESSABLE_ENTITY)
    return see_other("operation", operation_id=started.operation.id)


@blueprint.get("/models/<path:name>/delete")
@needs(Role.ADMIN)
def ask_delete_model(name: str) -> Response:
    """Say what deleting would do."""
    with services().ledger.reading() as session:
        get_model(session, name)
    effects = (
        f"{name} takes no new jobs from now on.",
        "Its replicas are unloaded once they have nothing to do.",
        "Its checkpoint stays on the nodes until nothing wants it there.",
    )
    return Response(render_template("admin/confirm.html", title=f"Delete {name}?", effects=effects, verb="Delete it"))


@blueprint.post("/models/<path:name>/delete")
@needs(Role.ADMIN)
def delete_model(name: str) -> Response:
    """Stop a model and forget it."""
    return see_other("operation", operation_id=_changes().delete_model(name).operation.id)


def _checked_name(name: str) -> str:
    try:
        return _MODEL_NAME.validate_python(name.strip())
    except ValidationError:
        detail = "must be 1 to 128 of A-Z a-z 0-9 . _ : / - beginning with a letter or a digit"
        raise InvalidFieldsError((FieldError(pointer="/name", detail=detail, code="name"),)) from None


def _show(form: Form, status: HTTPStatus) -> Response:
    nodes = [node["id"] for node in nodes_now(services())]
    defaults = {name: field.default for name, field in ModelRequest.model_fields.items()}
    return page("models", _context, status=status, form=form, node_names=nodes, defaults=defaults)


def _context() -> Context:
    web = services()
    loaded: dict[object, int] = {}
    for node in nodes_now(web):
        for gpu in node["gpus"]:  # type: ignore[attr-defined] # JSON; made by `nodes_json`
            for replica in gpu["replicas"]:
                loaded[replica["model"]] = loaded.get(replica["model"], 0) + (replica["gpus"][0] == gpu["id"])
    return {"models": models_now(web), "loaded": loaded}


def _changes() -> AdminChanges:
    return AdminChanges(services().ledger, person(), form_request(person().tenant))
