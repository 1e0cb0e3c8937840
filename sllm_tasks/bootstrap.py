"""The first admin of a fresh ledger, as key and as user, and the file that lets this machine's own CLI in."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

from sllm_tasks.config import Settings
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.keys import Scope, create_key, ensure_tenant, list_keys
from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.users import create_user, has_users, list_users, make_link

#: The tenant of the first key.
DEFAULT_TENANT = "default"
#: The first user of the admin UI.
FIRST_USER = "admin"


def ensure_admin_key(settings: Settings, url: str) -> str | None:
    """Make the first key if the ledger has none and return it; the client file gets it, and the URL in any case."""
    ledger = Database(settings.ledger_url)
    key = None
    now = datetime.now(UTC)
    try:
        with ledger.transaction() as session:
            if not list_keys(session):
                ensure_tenant(session, DEFAULT_TENANT, now=now)
                _, key = create_key(session, tenant=DEFAULT_TENANT, name="first", scopes=frozenset(Scope), now=now)
    finally:
        ledger.close()
    path = settings.home / "client.toml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [line for line in text.splitlines() if not line.startswith("url")]
    if key is not None:
        lines = [line for line in lines if not line.startswith("api_key")] + [f"api_key = {json.dumps(key)}"]
    temporary = path.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join([f"url = {json.dumps(url)}", *lines]) + "\n")
    temporary.replace(path)
    return key


def first_login_link(settings: Settings, url: str) -> str | None:
    """Make a link by which the first user sets a password; None if somebody can sign in already."""
    ledger = Database(settings.ledger_url)
    now = datetime.now(UTC)
    try:
        with ledger.transaction() as session:
            if has_users(session):
                return None
            if FIRST_USER not in {user.name for user in list_users(session)}:
                create_user(session, FIRST_USER, Role.ADMIN, now=now)
            return url + login_path(make_link(session, FIRST_USER, now=now))
    finally:
        ledger.close()


def login_path(token: str) -> str:
    """Where the web process takes a login link."""
    return f"/admin/link/{token}"
