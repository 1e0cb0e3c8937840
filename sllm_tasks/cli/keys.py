"""`sllm key`: API keys."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import click

from sllm_tasks.cli.output import Json, note, output_option, show_list, show_one
from sllm_tasks.client import Client, calls
from sllm_tasks.config import load_settings
from sllm_tasks.errors import ConfigError
from sllm_tasks.ledger import schema
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.keys import Scope, create_key, ensure_tenant
from sllm_tasks.limits import TENANT_NAME, TENANT_NAME_IN_WORDS

_SCOPES = [scope.value for scope in Scope]
_MAX_NAME = 256


@click.group()
def key() -> None:
    """Create, list and revoke API keys."""


@key.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(_SCOPES), default=_SCOPES, help="Default: all.")
@click.option("--tenant", default="default", show_default=True)
@click.option("--local", is_flag=True, help="Write into this machine's ledger; for the first key of a cluster.")
@output_option
def create(name: str, scopes: tuple[str, ...], tenant: str, local: bool, output: str) -> None:
    """Make a key and print it, for the only time."""
    made: Json
    if local:
        made = _create_locally(name, scopes, tenant)
    else:
        with Client() as client:
            made = client.run(calls.create_key(name, scopes, tenant))
    note("keep the key: it is not shown again")
    show_one(output, made)


@key.command("ls")
@output_option
def list_keys(output: str) -> None:
    """List keys."""
    with Client() as client:
        found = client.run(calls.get_list("keys"))
    show_list(
        output,
        found,
        {
            "KEY": lambda key: key["id"],
            "NAME": lambda key: key["name"],
            "TENANT": lambda key: key["tenant"],
            "SCOPES": lambda key: " ".join(key["scopes"]),
            "LAST USED": lambda key: key["last_used_at"],
            "REVOKED": lambda key: key["revoked_at"],
        },
    )


@key.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Make a key useless; at once, or within five seconds where it was just used."""
    with Client() as client:
        client.run(calls.revoke_key(key_id))
    note(f"revoked {key_id}")


def _create_locally(name: str, scopes: tuple[str, ...], tenant: str) -> dict[str, Any]:
    # The server, which is not asked here, refuses the same.
    if not re.fullmatch(TENANT_NAME, tenant):
        raise click.BadParameter(f"must be {TENANT_NAME_IN_WORDS}", param_hint="--tenant")
    if not 1 <= len(name) <= _MAX_NAME:
        raise click.BadParameter(f"must have 1 to {_MAX_NAME} characters", param_hint="NAME")
    settings, _ = load_settings()
    if schema.current(settings.ledger_url) is None:
        raise ConfigError("the ledger has no tables yet: sllm db upgrade, or any start of sllm up, makes them")
    ledger = Database(settings.ledger_url)
    try:
        now = datetime.now(UTC)
        with ledger.transaction() as session:
            ensure_tenant(session, tenant, now=now)
            allowed = frozenset(map(Scope, scopes))
            row, plain = create_key(session, tenant=tenant, name=name, scopes=allowed, now=now)
        return {"id": row.id, "name": name, "tenant": tenant, "scopes": sorted(scopes), "key": plain}
    finally:
        ledger.close()
