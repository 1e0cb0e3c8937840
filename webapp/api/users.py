"""`/api/v1/users`: users of the admin UI; they set their passwords themselves, by a link that works once."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify, request

from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.users import get_user, list_users
from webapp.admin_json import user_json
from webapp.auth import caller, requires
from webapp.incoming import read_body
from webapp.outgoing import list_json
from webapp.schemas.admin import RoleRequest, UserRequest
from webapp.services import services
from webapp.user_changes import InvitedUser, UserChanges

blueprint = Blueprint("users", __name__, url_prefix="/api/v1/users")


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_users() -> Response:
    """List all users."""
    with services().ledger.reading() as session:
        data = [user_json(row) for row in list_users(session)]
    return jsonify(list_json(data))


@blueprint.post("")
@requires(Scope.ADMIN_WRITE)
def create_user() -> Response:
    """Make a user and show the link by which they set a password."""
    wanted = read_body(UserRequest)
    return _invited(_changes().create(wanted.name, wanted.role), HTTPStatus.CREATED)


@blueprint.post("/<name>/link")
@requires(Scope.ADMIN_WRITE)
def invite(name: str) -> Response:
    """Make a new link; the one before no longer works."""
    return _invited(_changes().invite(name), HTTPStatus.OK)


@blueprint.patch("/<name>")
@requires(Scope.ADMIN_WRITE)
def set_role(name: str) -> Response:
    """Give a user another role."""
    _changes().set_role(name, read_body(RoleRequest).role)
    with services().ledger.reading() as session:
        return jsonify(user_json(get_user(session, name)))


@blueprint.delete("/<name>")
@requires(Scope.ADMIN_WRITE)
def disable(name: str) -> Response:
    """Sign a user out everywhere, for good; a new link takes them back."""
    _changes().disable(name)
    return Response(status=HTTPStatus.NO_CONTENT)


def _invited(invited: InvitedUser, status: HTTPStatus) -> Response:
    response = jsonify({**user_json(invited.row), "link": request.host_url.rstrip("/") + invited.path})
    response.status_code = status
    response.headers["Cache-Control"] = "no-store"
    return response


def _changes() -> UserChanges:
    return UserChanges(services().ledger, caller())
