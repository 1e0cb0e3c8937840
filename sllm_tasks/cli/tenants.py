"""`sllm tenant`: what tenants may have."""

from __future__ import annotations

import click

from sllm_tasks.cli.numbers import FiniteRange
from sllm_tasks.cli.output import output_option, show_list, show_one
from sllm_tasks.client import Client, calls


@click.group()
def tenant() -> None:
    """List tenants, set their shares and limits."""


@tenant.command("ls")
@output_option
def list_tenants(output: str) -> None:
    """List tenants; what is not set is as the server's settings say."""
    with Client() as client:
        found = client.run(calls.get_list("tenants"))
    show_list(
        output,
        found,
        {
            "TENANT": lambda tenant: tenant["id"],
            "WEIGHT": lambda tenant: tenant["weight"],
            "MAX QUEUED": lambda tenant: tenant["max_queued_jobs"],
            "MAX RUNNING": lambda tenant: tenant["max_running_jobs"],
            "REQUESTS/MIN": lambda tenant: tenant["max_requests_per_min"],
            "TOKENS/MIN": lambda tenant: tenant["max_tokens_per_min"],
        },
    )


@tenant.command("set")
@click.argument("name", metavar="TENANT")
@click.option(
    "--weight",
    type=FiniteRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Share when tenants compete.",
)
@click.option("--max-queued-jobs", type=click.IntRange(min=0), help="Jobs that may wait. Default: the server's.")
@click.option("--max-running-jobs", type=click.IntRange(min=1), help="Jobs that may run. Default: the server's.")
@click.option("--max-requests-per-min", type=click.IntRange(min=0), help="Of each of its keys. Default: the server's.")
@click.option(
    "--max-tokens-per-min",
    type=click.IntRange(min=0),
    help="Of prompts and to be produced, of each of its keys. Default: the server's.",
)
@output_option
def set_tenant(name: str, output: str, **rules: float | None) -> None:
    """Say what holds for TENANT; what is left out goes back to its default."""
    with Client() as client:
        show_one(output, client.run(calls.put_tenant(name, rules)))
