"""Users of the admin UI for tests."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from sllm_tasks.ledger import user_sessions, users
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.passwords import hash_password
from sllm_tasks.ledger.states import Role
from webapp.app import create_app
from webapp.services import WebServices

PASSWORD = "correct horse battery"
_CSRF = re.compile(r'name="csrf_token" value="([0-9a-f]{64})"')


def add_user(ledger: Database, name: str, role: Role) -> None:
    """Make a user with a password."""
    now = datetime.now(UTC)
    with ledger.transaction() as session:
        users.create_user(session, name, role, now=now)
        users.use_link(session, users.make_link(session, name, now=now), hash_password(PASSWORD), now=now)


class Browser:
    """A browser without scripts that is signed in as a user of a role, over the application itself."""

    def __init__(self, services: WebServices, role: Role) -> None:
        self.name = str(role)
        add_user(services.ledger, self.name, role)
        with services.ledger.transaction() as session:
            self.token = user_sessions.open_session(session, self.name, now=datetime.now(UTC))
        self.http: FlaskClient = create_app(services).test_client()
        self.http.set_cookie("sllm_session", self.token, path="/admin")

    def get(self, path: str) -> TestResponse:
        """Open a page."""
        return self.http.get(path)

    def post(self, path: str, **fields: Any) -> TestResponse:
        """Send a form, with the token that a page of this session carries."""
        return self.http.post(path, data={"csrf_token": self.csrf_token(), **fields})

    def csrf_token(self) -> str:
        """What every form of this session carries."""
        match = _CSRF.search(self.get("/admin/audit").text)
        assert match is not None
        return match[1]
