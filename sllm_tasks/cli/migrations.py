"""`sllm migrate`: running jobs that move to other gpus."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import output_option, show_list, show_one
from sllm_tasks.client import Client, calls


@click.group()
def migrate() -> None:
    """Move running jobs to other gpus; their readers see a pause and nothing else."""


@migrate.command()
@click.argument("job")
@click.option("--to", metavar="GPU", help="Gpu as <node>.<index>; default: wherever there is room.")
@output_option
def start(job: str, to: str | None, output: str) -> None:
    """Begin to move JOB."""
    with Client() as client:
        show_one(output, client.run(calls.start_migration(job, to)))


@migrate.command("ls")
@output_option
def list_migrations(output: str) -> None:
    """List the latest migrations."""
    with Client() as client:
        found = client.run(calls.get_list("migrations"))
    show_list(
        output,
        found,
        {
            "MIGRATION": lambda migration: migration["id"],
            "JOB": lambda migration: migration["job_id"],
            "STATE": lambda migration: migration["state"],
            "REASON": lambda migration: migration["reason"],
            "FROM": lambda migration: ",".join(migration["source"]),
            "TO": lambda migration: ",".join(migration["target"]),
            "ROUNDS": lambda migration: str(len(migration["rounds"])),
            "PAUSE": lambda migration: _ms(migration["pause_ms"]),
            "PREDICTED": lambda migration: _ms((migration["predicted"] or {}).get("pause_ms")),
        },
    )


@migrate.command()
@click.argument("migration")
@output_option
def abort(migration: str, output: str) -> None:
    """Leave the job of MIGRATION where it is, unless it has moved already."""
    with Client() as client:
        show_one(output, client.run(calls.abort_migration(migration)))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
