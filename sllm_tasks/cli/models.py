"""`sllm deploy`, `delete`, `models`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from sllm_tasks.cli.numbers import TIMEOUT
from sllm_tasks.cli.output import human_bytes, note, output_option, show_list, show_one
from sllm_tasks.client import Client, OperationRecord
from sllm_tasks.client.records import Json


def _seconds_or_auto(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    if value is None or value == "auto":
        return value
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise click.BadParameter(f"{value!r} is neither a number of seconds from 0 nor auto")
    return seconds


@click.command()
@click.argument("name")
@click.argument("source")
@click.option("--node", help="The node whose agent can read SOURCE; default: any.")
@click.option("--engine", help="Engine that runs the model.")
@click.option("--num-gpus", type=int, help="Gpus of one node that a replica takes, each with a part of the layers.")
@click.option("--context", type=int, help="Tokens of prompt and output of one job.")
@click.option("--max-jobs", type=int, help="Jobs that one replica decodes together.")
@click.option(
    "--keep-alive",
    "keep_alive_s",
    metavar="SECONDS|auto",
    callback=_seconds_or_auto,
    help="How long an idle replica stays; auto: as long as its jobs make it worth it.",
)
@click.option("--min-replicas", type=int, help="Replicas that are kept loaded, also without a job.")
@click.option("--max-replicas", type=int, help="Replicas at most.")
@click.option("--exactness", type=click.Choice(["token", "exact"]), help="Whether retries keep tokens or every bit.")
@click.option("--wait/--no-wait", default=True, help="Wait until the model can be used.")
@click.option("--timeout", type=TIMEOUT, default=600.0, show_default=True, help="Seconds to wait.")
@output_option
def deploy(name: str, source: str, wait: bool, timeout: float, output: str, **settings: Any) -> None:
    """Deploy the checkpoint at SOURCE, a directory on a node or a URL (http, https, s3), as the model NAME."""
    if Path(source).exists():
        # The node agent may run in another folder.
        source = str(Path(source).resolve())
    with Client() as client:
        _finish(client, client.deploy(name, source, **settings), wait=wait, timeout=timeout, output=output)
        if wait and settings["context"] is not None:
            context = next((model["context"] for model in client.models() if model["id"] == name), None)
            if context is not None and context < settings["context"]:
                note(f"context: {context} tokens, as many as {name} has positions for")


@click.command()
@click.argument("name")
@click.option("--wait/--no-wait", default=True, help="Wait until it is gone.")
@click.option("--timeout", type=TIMEOUT, default=600.0, show_default=True, help="Seconds to wait.")
@output_option
def delete(name: str, wait: bool, timeout: float, output: str) -> None:
    """Delete the model NAME; its running jobs end first."""
    with Client() as client:
        _finish(client, client.delete_model(name), wait=wait, timeout=timeout, output=output)


@click.command()
@output_option
def models(output: str) -> None:
    """List models."""
    with Client() as client:
        show_list(
            output,
            client.models(),
            {
                "NAME": lambda model: model["id"],
                "STATE": lambda model: model["state"],
                "DEPLOYMENT": lambda model: _deployment(model)["state"],
                "CONTEXT": lambda model: model["context"],
                "WEIGHTS": lambda model: human_bytes(model["weights_bytes"]),
                "REPLICAS": lambda model: f"{model['min_replicas']}..{model['max_replicas']}",
                "KEEP ALIVE": lambda model: _keep_alive(model["keep_alive_s"]),
                "ERROR": lambda model: model["error"] or (_deployment(model)["error"] or {}).get("message", ""),
            },
        )


def _keep_alive(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g} s"


def _deployment(model: Json) -> Json:
    """The last deployment, which may be under way or have failed while the model serves what it had before."""
    known: Json | None = model["deployment"]
    return known or {"state": "", "error": None}


def _finish(client: Client, operation: OperationRecord, *, wait: bool, timeout: float, output: str) -> None:
    if wait:
        note(f"{operation.kind} {operation.target}: {operation.id}")
        operation = client.wait_for(operation, timeout)
    shown = ("id", "kind", "target", "status", "node")
    show_one(output, operation.raw if output == "json" else {name: operation.raw[name] for name in shown})
