"""Changes of users of the admin UI, each with its audit row."""

from __future__ import annotations

from dataclasses import dataclass

from sllm_tasks.bootstrap import login_path
from sllm_tasks.ledger import users
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.tables import UserRow
from webapp.audited import Caller, audited


@dataclass(frozen=True, slots=True)
class InvitedUser:
    """A user who may set a password: where, is shown to whoever asked, once."""

    row: UserRow
    path: str


@dataclass(frozen=True, slots=True)
class UserChanges:
    """What one caller changes."""

    ledger: Database
    caller: Caller

    def create(self, name: str, role: Role) -> InvitedUser:
        """Make a user; raises ConflictError for a name that is taken."""
        with audited(self.ledger, self.caller, "user.create", name, after={"role": role}) as change:
            users.create_user(change.session, name, role, now=change.now)
            token = users.make_link(change.session, name, now=change.now)
            return InvitedUser(users.get_user(change.session, name), login_path(token))

    def invite(self, name: str) -> InvitedUser:
        """Let a user set a new password; raises NotFoundError."""
        with audited(self.ledger, self.caller, "user.link", name) as change:
            token = users.make_link(change.session, name, now=change.now)
            return InvitedUser(users.get_user(change.session, name), login_path(token))

    def set_role(self, name: str, role: Role) -> None:
        """Give a user another role; raises NotFoundError, or ConflictError for the last admin."""
        with audited(self.ledger, self.caller, "user.role", name, after={"role": role}) as change:
            users.set_role(change.session, name, role)

    def disable(self, name: str) -> None:
        """Sign a user out for good; raises NotFoundError, or ConflictError for the last admin."""
        with audited(self.ledger, self.caller, "user.disable", name) as change:
            users.disable_user(change.session, name, now=change.now)
