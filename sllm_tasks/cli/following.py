"""Print a job's text as it comes."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import note
from sllm_tasks.client import Job, Snapshot
from sllm_tasks.jobs import JobStatus


def print_stream(job: Job) -> None:
    """Write the text of a job to standard output until the job has ended; say before why it waits."""
    printed = ""
    # Why a job has waited that runs by now is of no interest any more.
    is_queued = job.record.status is JobStatus.QUEUED
    for item in job.stream((lambda reason: note(f"{job.id} waits: {reason}")) if is_queued else None):
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
