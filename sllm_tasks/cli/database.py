"""`sllm db`: the ledger's schema, its backups; works on this machine's settings."""

from __future__ import annotations

from pathlib import Path

import click

from sllm_tasks.cli.failures import Exit
from sllm_tasks.cli.output import note
from sllm_tasks.config import load_settings, make_private
from sllm_tasks.ledger import backup as backups
from sllm_tasks.ledger import schema


@click.group()
def db() -> None:
    """Upgrade, check, back up and restore the ledger."""


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


@db.command()
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Write the ledger, an SQLite file, to a new FILE, while it is in use."""
    settings, _ = load_settings()
    backups.back_up(settings.ledger_url, file)
    note(f"{file} holds the ledger, prompts and outputs included")


@db.command()
@click.argument("file", type=click.Path(path_type=Path))
def restore(file: Path) -> None:
    """Make the ledger what FILE holds; nothing of this cluster may run."""
    settings, _ = load_settings()
    make_private(settings.home)
    backups.restore(settings.ledger_url, file)
    note("the ledger is restored; empty the live state before anything starts (docs/how-to/back-up-the-ledger.md)")
