"""`sllm decisions`: what the router has chosen, what it expected, and what came of it."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import output_option, show_list
from sllm_tasks.cli.starts import interval, place
from sllm_tasks.client import Client, calls


@click.command()
@click.option("--job", metavar="JOB", help="Those about one job.")
@click.option("--model", help="Those about the jobs of one model.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Decisions at most.")
@output_option
def decisions(job: str | None, model: str | None, limit: int, output: str) -> None:
    """List what the router chose for jobs, newest first: when a first token was expected, and when it came.

    What else it could have done is in the JSON (`-o json`).
    """
    with Client() as client:
        found = client.run(calls.list_decisions(job=job, model=model, limit=limit))
    show_list(
        output,
        found,
        {
            "AT": lambda decision: decision["created_at"],
            "JOB": lambda decision: decision["job_id"],
            "ATTEMPT": lambda decision: str(decision["attempt"]),
            "PATH": lambda decision: decision["path"],
            "WHERE": lambda decision: place(decision["choice"]),
            "FIRST TOKEN": lambda decision: _seconds(decision["predicted_s"]),
            "80 % WITHIN": lambda decision: interval(decision["choice"]),
            "CAME AFTER": lambda decision: _seconds(decision["actual_s"]),
            "REASON": lambda decision: decision["choice"]["reason"] or "-",
        },
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
