"""`sllm db`: the ledger's schema; works on this machine's settings."""

from __future__ import annotations

import click

from sllm_tasks.cli.failures import Exit
from sllm_tasks.cli.output import note
from sllm_tasks.config import load_settings, make_private
from sllm_tasks.ledger import schema


@click.group()
def db() -> None:
    """Upgrade and check the ledger's schema."""


@db.command()
def upgrade() -> None:
    """Bring the ledger's schema to what this version expects."""
    settings, _ = load_settings()
    make_private(settings.home)
    schema.upgrade(settings.ledger_url)
    note(f"the ledger is at revision {schema.current(settings.ledger_url)}")


@db.command()
def check() -> int:
    """Say how the ledger's schema differs from what this version expects; fails if it does."""
    settings, _ = load_settings()
    differences = schema.check(settings.ledger_url)
    for difference in differences:
        click.echo(difference)
    if not differences:
        note("the ledger is as this version expects it")
    return Exit.FAILURE if differences else Exit.OK
