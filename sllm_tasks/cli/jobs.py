"""`sllm job`: jobs that exist."""

from __future__ import annotations

import sys
from itertools import islice

import click

from sllm_tasks.cli.following import print_stream
from sllm_tasks.cli.output import output_option, show_list, show_one
from sllm_tasks.client import Client
from sllm_tasks.jobs import JobStatus


@click.group()
def job() -> None:
    """List, read, watch, cancel and retry jobs."""


@job.command("ls")
@click.option("--status", type=click.Choice([status.value for status in JobStatus]))
@click.option("--model", help="Jobs of one model.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Jobs at most.")
@output_option
def list_jobs(status: str | None, model: str | None, limit: int, output: str) -> None:
    """List jobs, newest first."""
    with Client() as client:
        found = client.jobs(status=status, model=model, page_size=min(limit, 100))
        records = [job.record.raw for job in islice(found, min(limit, sys.maxsize))]
    show_list(
        output,
        records,
        {
            "JOB": lambda job: job["id"],
            "STATUS": lambda job: job["status"],
            "PHASE": lambda job: job["phase"],
            "MODEL": lambda job: job["model"],
            "TOKENS": lambda job: f"{job['progress']['done']}/{job['progress']['total']}",
            "CREATED": lambda job: job["created_at"],
        },
    )


@job.command()
@click.argument("job_id")
@output_option
def get(job_id: str, output: str) -> None:
    """Read a job."""
    with Client() as client:
        show_one(output, client.get_job(job_id).record.raw)


@job.command()
@click.argument("job_id")
def watch(job_id: str) -> None:
    """Print a job's text as it comes; Ctrl-C leaves it running."""
    with Client() as client:
        found = client.get_job(job_id)
        print_stream(found)
        found.result(timeout=60)


@job.command()
@click.argument("job_id")
@output_option
def cancel(job_id: str, output: str) -> None:
    """Stop a job."""
    with Client() as client:
        show_one(output, client.get_job(job_id).cancel().raw)


@job.command()
@click.argument("job_id")
@output_option
def retry(job_id: str, output: str) -> None:
    """Submit a job that did not succeed once more, as a new job."""
    with Client() as client:
        show_one(output, client.get_job(job_id).retry().record.raw)
