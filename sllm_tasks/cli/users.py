"""`sllm user`: users of the admin UI."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import note, output_option, show_list, show_one
from sllm_tasks.client import Client, calls

_role = click.Choice(["viewer", "operator", "admin"])


@click.group()
def user() -> None:
    """Make, list and disable users of the admin UI."""


@user.command()
@click.argument("name")
@click.option("--role", type=_role, default="viewer", show_default=True)
@output_option
def create(name: str, role: str, output: str) -> None:
    """Make a user and print the link by which they choose a password."""
    with Client() as client:
        made = client.run(calls.create_user(name, role))
    note("the link works once, for a day; it is not shown again")
    show_one(output, made)


@user.command("ls")
@output_option
def list_users(output: str) -> None:
    """List users."""
    with Client() as client:
        found = client.run(calls.get_list("users"))
    show_list(
        output,
        found,
        {
            "USER": lambda user: user["id"],
            "ROLE": lambda user: user["role"],
            "PASSWORD": lambda user: "set" if user["has_password"] else "-",
            "SIGNED IN": lambda user: user["signed_in_at"],
            "DISABLED": lambda user: user["disabled_at"],
        },
    )


@user.command()
@click.argument("name")
@output_option
def link(name: str, output: str) -> None:
    """Print a new link for a user who has lost theirs, forgotten a password or was disabled."""
    with Client() as client:
        made = client.run(calls.invite_user(name))
    show_one(output, made)


@user.command()
@click.argument("name")
@click.argument("role", type=_role)
def role(name: str, role: str) -> None:
    """Give a user another role."""
    with Client() as client:
        client.run(calls.set_role(name, role))
    note(f"{name} is {role} now")


@user.command()
@click.argument("name")
def disable(name: str) -> None:
    """Sign a user out everywhere; `link` takes them back."""
    with Client() as client:
        client.run(calls.disable_user(name))
    note(f"disabled {name}")
