"""`sllm place`: where checkpoints should be."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import output_option, show_list, show_one
from sllm_tasks.client import Client, calls
from sllm_tasks.client.records import Json


@click.group()
def place() -> None:
    """Say where checkpoints should be."""


@place.command("ls")
@output_option
def list_placements(output: str) -> None:
    """List where checkpoints should be and are, and why they are not where they should be."""
    with Client() as client:
        found = client.run(calls.get_list("placements"))
    show_list(
        output,
        found,
        {
            "CHECKPOINT": lambda placement: placement["checkpoint"],
            "NODE": lambda placement: placement["node"],
            "DESIRED": lambda placement: placement["desired"] or "-",
            "ACTUAL": lambda placement: placement["actual"] or "-",
            "PINNED": lambda placement: "yes" if placement["pinned"] else "no",
            "STATE": _state,
        },
    )


@place.command("set")
@click.argument("checkpoint")
@click.argument("node")
@click.option("--tier", type=click.Choice(["ssd", "dram"]), default="ssd", show_default=True)
@click.option("--pin/--no-pin", default=True, show_default=True, help="Whether it stays whatever the policy says.")
@output_option
def set_placement(checkpoint: str, node: str, tier: str, pin: bool, output: str) -> None:
    """Want CHECKPOINT (a digest) in a tier of NODE."""
    with Client() as client:
        show_one(output, client.run(calls.put_placement(checkpoint, node, tier, pinned=pin)))


@place.command("rm")
@click.argument("checkpoint")
@click.argument("node")
@output_option
def remove_placement(checkpoint: str, node: str, output: str) -> None:
    """Want CHECKPOINT (a digest) not to be on NODE."""
    with Client() as client:
        show_one(output, client.run(calls.delete_placement(checkpoint, node)))


@place.command("propose")
@click.option("--apply", "is_applied", is_flag=True, help="Want it so; what is pinned stays.")
@output_option
def propose_placements(is_applied: bool, output: str) -> None:
    """Say where checkpoints should be by how often their models were asked for in the last day."""
    with Client() as client:
        found = client.run(calls.apply_proposals() if is_applied else calls.get_list("placements/proposals"))
    show_list(
        output,
        found,
        {
            "CHECKPOINT": lambda proposal: proposal["checkpoint"],
            "NODE": lambda proposal: proposal["node"],
            "DESIRED": lambda proposal: proposal["desired"] or "-",
            "PROPOSED": lambda proposal: proposal["proposed"] or "-",
        },
    )


def _state(placement: Json) -> str:
    if placement["met"]:
        return "ok"
    if placement["error"] is not None:
        return str(placement["error"]["message"])
    return "under way" if placement["operation"] else "waits"
