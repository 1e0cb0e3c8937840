"""`sllm queue`: jobs that wait."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import output_option, show_list, show_one
from sllm_tasks.client import Client, calls
from sllm_tasks.client.records import Json
from sllm_tasks.cluster import EVERY_MODEL


@click.group()
def queue() -> None:
    """List queues, hold their jobs back and let them go."""


@queue.command("ls")
@output_option
def list_queues(output: str) -> None:
    """List how many jobs wait for each model, and since when; `*` is all of them together."""
    with Client() as client:
        found = client.run(calls.get_list("queues"))
    show_list(
        output,
        found,
        {
            "QUEUE": lambda queue: queue["id"],
            "PAUSED": lambda queue: "yes" if queue["paused"] else "no",
            "WAITING": lambda queue: str(queue["depth"]),
            "OLDEST": _oldest,
        },
    )


@queue.command()
@click.argument("model", default=EVERY_MODEL)
@output_option
def pause(model: str, output: str) -> None:
    """Start no more jobs of MODEL, or of any; what runs goes on, and new jobs are accepted."""
    with Client() as client:
        show_one(output, client.run(calls.pause_queue(model)))


@queue.command()
@click.argument("model", default=EVERY_MODEL)
@output_option
def resume(model: str, output: str) -> None:
    """Start jobs of MODEL again, or of all models whose own queue is not paused."""
    with Client() as client:
        show_one(output, client.run(calls.resume_queue(model)))


def _oldest(queue: Json) -> str:
    age_ms = queue["oldest_age_ms"]
    return "-" if age_ms is None else f"{age_ms / 1000:.1f} s"
