"""`sllm place`: where checkpoints should be."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import output_option, show_list, show_one
from sllm_tasks.client import Client, calls


@click.group()
def place() -> None:
    """Say where checkpoints should be."""


@place.command("ls")
@output_option
def list_placements(output: str) -> None:
    """List where checkpoints should be and are."""
    with Client() as client:
        found = client.run(calls.get_list("placements"))
    show_list(
        output,
        found,
        {
            "CHECKPOINT": lambda placement: placement["checkpoint"],
            "NODE": lambda placement: placement["node"],
            "DESIRED": lambda placement: placement["desired"],
            "ACTUAL": lambda placement: placement["actual"],
        },
    )


@place.command("set")
@click.argument("checkpoint")
@click.argument("node")
@click.option("--tier", type=click.Choice(["ssd"]), default="ssd", show_default=True)
@output_option
def set_placement(checkpoint: str, node: str, tier: str, output: str) -> None:
    """Want CHECKPOINT (a digest) on NODE."""
    with Client() as client:
        show_one(output, client.run(calls.put_placement(checkpoint, node, tier)))
