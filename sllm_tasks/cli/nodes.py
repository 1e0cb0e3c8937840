"""`sllm node`: runs this node's agent, or with `ls` and `calibrate` tells of all nodes."""

from __future__ import annotations

from typing import Any

import click

from sllm_tasks.cli.numbers import TIMEOUT
from sllm_tasks.cli.output import human_bytes, note, output_option, show_list, show_one
from sllm_tasks.cli.processes import everywhere, node_option, run_process
from sllm_tasks.client import Client, calls
from sllm_tasks.client.records import Json


@click.group(invoke_without_command=True)
@everywhere
@node_option
@click.pass_context
def node(context: click.Context, /, **flags: Any) -> int | None:
    """Run this node's agent, unless a command is given."""
    return None if context.invoked_subcommand else run_process("sllm_tasks.node_agent.main", flags)


@node.command("ls")
@output_option
def list_nodes(output: str) -> None:
    """List the nodes, how full their tiers are and what these deliver."""
    with Client() as client:
        found = client.nodes()
    show_list(
        output,
        found,
        {
            "NODE": lambda node: node["id"],
            "AGENT": lambda node: node["agent"],
            "GPUS": lambda node: str(len(node["gpus"])),
            "CHECKPOINTS": lambda node: str(len(node["checkpoints"])),
            "SSD": lambda node: _usage(node["tiers"]["ssd"]),
            "SSD RATE": lambda node: _rate(node["tiers"]["ssd"]),
            "DRAM": lambda node: _usage(node["tiers"]["dram"]),
            "DRAM RATE": lambda node: _rate(node["tiers"]["dram"]),
        },
    )


@node.command("calibrate")
@click.argument("name", metavar="NODE")
@click.option("--wait/--no-wait", default=True, help="Wait for the result.")
@click.option("--timeout", type=TIMEOUT, default=60.0, show_default=True, help="Seconds to wait.")
@output_option
def calibrate(name: str, wait: bool, timeout: float, output: str) -> None:
    """Measure what the tiers of NODE deliver, past the page cache."""
    with Client() as client:
        operation = client.run(calls.calibrate_node(name))
        if wait:
            note(f"{operation.kind} {operation.target}: {operation.id}")
            operation = client.wait_for(operation, timeout)
    shown = ("id", "kind", "target", "status", "result")
    show_one(output, operation.raw if output == "json" else {name: operation.raw[name] for name in shown})


_gpu_option = click.option("--gpu", type=click.IntRange(min=0), help="One gpu, by its index; default: all of the node.")


@node.command("drain")
@click.argument("name", metavar="NODE")
@_gpu_option
@output_option
def drain(name: str, gpu: int | None, output: str) -> None:
    """Let NODE take no more work until it is taken back, and move what runs there."""
    with Client() as client:
        show_one(output, client.run(calls.drain_node(name, gpu)))


@node.command("undrain")
@click.argument("name", metavar="NODE")
@_gpu_option
@output_option
def undrain(name: str, gpu: int | None, output: str) -> None:
    """Let NODE take work again."""
    with Client() as client:
        show_one(output, client.run(calls.undrain_node(name, gpu)))


def _usage(tier: Json) -> str:
    if tier["error"]:
        return str(tier["error"])
    if tier["capacity_bytes"] is None:
        return "-"
    return f"{human_bytes(tier['used_bytes'])} of {human_bytes(tier['capacity_bytes'])}"


def _rate(tier: Json) -> str:
    return "-" if tier["bytes_per_s"] is None else f"{human_bytes(int(tier['bytes_per_s']))}/s"
