"""`sllm config`: the settings of this machine."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import output_option, show_list
from sllm_tasks.config import load_settings, masked


@click.group()
def config() -> None:
    """Show the settings and where each is from."""


@config.command()
@output_option
def show(output: str) -> None:
    """Show every setting, its value and its origin; secrets are masked."""
    settings, origins = load_settings()
    rows = [
        {"name": name, "value": masked(value), "origin": origins[name]}
        for name, value in settings.model_dump(mode="json").items()
    ]
    show_list(
        output,
        rows,
        {"SETTING": lambda row: row["name"], "VALUE": lambda row: row["value"], "ORIGIN": lambda row: row["origin"]},
    )
