"""Print a job's text as it comes."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import note
from sllm_tasks.client import Job, Snapshot


def print_stream(job: Job) -> None:
    """Write the text of a job to standard output until the job has ended."""
    printed = ""
    for item in job.stream():
        if not isinstance(item, Snapshot):
            new = item.text
        elif item.text.startswith(printed):
            new = item.text.removeprefix(printed)
        else:
            # What is on a terminal cannot be taken back.
            note("\nthe job started again; its text from the beginning:")
            printed, new = "", item.text
        printed += new
        click.echo(new, nl=False)
    click.echo()
