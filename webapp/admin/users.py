"""Users of the admin UI: inviting, roles, disabling."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response, render_template, request, url_for

from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.users import get_user, list_users
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import Form, given_fields, read_form
from webapp.admin.pages import Context, page
from webapp.admin_json import user_json
from webapp.errors import InvalidFieldsError
from webapp.schemas.admin import RoleRequest, UserRequest
from webapp.services import services
from webapp.user_changes import InvitedUser, UserChanges


@blueprint.get("/users")
@needs(Role.ADMIN)
def users() -> Response:
    """List users."""
    return _show(Form(), HTTPStatus.OK)


@blueprint.post("/users")
@needs(Role.ADMIN)
def create_user() -> Response:
    """Make a user and show the link by which they choose a password."""
    try:
        wanted = read_form(UserRequest, given_fields())
    except InvalidFieldsError as error:
        return _show(Form.refused(error), HTTPStatus.UNPROCESSABLE_ENTITY)
    return _show(Form(), HTTPStatus.CREATED, _changes().create(wanted.name, wanted.role))


@blueprint.post("/users/<name>/link")
@needs(Role.ADMIN)
def invite(name: str) -> Response:
    """Show a new link."""
    return _show(Form(), HTTPStatus.OK, _changes().invite(name))


@blueprint.post("/users/<name>/role")
@needs(Role.ADMIN)
def set_role(name: str) -> Response:
    """Give a user another role."""
    _changes().set_role(name, read_form(RoleRequest, given_fields()).role)
    return see_other("users", notice="role")


@blueprint.get("/users/<name>/disable")
@needs(Role.ADMIN)
def ask_disable(name: str) -> Response:
    """Say what disabling would do."""
    with services().ledger.reading() as session:
        get_user(session, name)
    effects = (
        f"{name} is signed out everywhere at once, and the password works no more.",
        "What they did stays in the audit trail. A new link takes them back.",
    )
    return Response(render_template("admin/confirm.html", title=f"Disable {name}?", effects=effects, verb="Disable"))


@blueprint.post("/users/<name>/disable")
@needs(Role.ADMIN)
def disable(name: str) -> Response:
    """Sign a user out for good."""
    _changes().disable(name)
    return see_other("users", notice="disabled")


def _show(form: Form, status: HTTPStatus, invited: InvitedUser | None = None) -> Response:
    link = None if invited is None else request.host_url.rstrip("/") + invited.path
    name = None if invited is None else invited.row.name
    # A new link is shown by the form that makes it.
    shown = {"form": form, "roles": list(Role), "link": link, "link_name": name}
    return page("users", _context, status=status, live_at=url_for("admin.users"), **shown)


def _context() -> Context:
    with services().ledger.reading() as session:
        return {"users": [user_json(row) for row in list_users(session)], "roles": list(Role)}


def _changes() -> UserChanges:
    return UserChanges(services().ledger, person())
