"""`sllm run` and `sllm submit`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import click

from sllm_tasks.cli.following import print_stream
from sllm_tasks.cli.numbers import FiniteRange
from sllm_tasks.cli.output import note, output_option, show_one
from sllm_tasks.client import Client, Job
from sllm_tasks.client.calls import JobSettings
from sllm_tasks.limits import MAX_LIFE_S, MAX_PRIORITY, MAX_SEED, MAX_TEMPERATURE, MAX_TOKENS, MAX_TOP_K

_Command = Callable[..., Any]


_SEED = click.IntRange(0, MAX_SEED)
_DEADLINE = FiniteRange(0, MAX_LIFE_S, min_open=True)
_OPTIONS: tuple[Callable[[_Command], _Command], ...] = (
    click.option("--chat", is_flag=True, help="Send PROMPT as a message, through the model's chat template."),
    click.option("--max-tokens", type=click.IntRange(1, MAX_TOKENS), help="Output tokens at most."),
    click.option("--temperature", type=FiniteRange(0, MAX_TEMPERATURE), help="0 is greedy."),
    click.option("--top-p", type=FiniteRange(0, 1, min_open=True)),
    click.option("--top-k", type=click.IntRange(0, MAX_TOP_K)),
    click.option("--seed", type=_SEED, help="The same seed draws the same tokens."),
    click.option("--stop", multiple=True, help="Text that ends the output; may be given often."),
    click.option("--priority", type=click.IntRange(0, MAX_PRIORITY), help="9 goes first."),
    click.option("--exactness", type=click.Choice(["token", "exact"]), help="What retries and migrations must keep."),
    click.option("--deadline", "deadline_s", type=_DEADLINE, help="Seconds after which the job is given up."),
)


def _job_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("model")
@click.argument("prompt", default="-")
@_job_options
def run(model: str, prompt: str, chat: bool, **settings: Any) -> None:
    """Send PROMPT (default: standard input) to MODEL and print the answer as it comes; Ctrl-C cancels it.

    So does a reader of the output that closes it, such as `head`.
    """
    with Client() as client:
        job = _submit(client, model, prompt, chat=chat, settings=_given(settings))
        try:
            print_stream(job)
        except (KeyboardInterrupt, OSError):
            # Nobody is there for the rest, or it cannot be written.
            job.cancel()
            raise
        job.result(timeout=60)


@click.command()
@click.argument("model")
@click.argument("prompt", default="-")
@_job_options
@output_option
def submit(model: str, prompt: str, chat: bool, output: str, **settings: Any) -> None:
    """Submit PROMPT (default: standard input) to MODEL and print the job's id."""
    with Client() as client:
        job = _submit(client, model, prompt, chat=chat, settings=_given(settings))
    if output == "json":
        show_one(output, job.record.raw)
    else:
        click.echo(job.id)
        note(f"sllm job watch {job.id}")


def _submit(client: Client, model: str, prompt: str, *, chat: bool, settings: JobSettings) -> Job:
    text = _piped() if prompt == "-" else prompt
    if chat:
        return client.submit(model=model, messages=[{"role": "user", "content": text}], **settings)
    return client.submit(model=model, prompt=text, **settings)


def _piped() -> str:
    # None where the process was started with it closed.
    if sys.stdin is None:
        raise click.BadParameter("there is no standard input to read it from", param_hint="PROMPT")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"standard input is no text in {error.encoding}", param_hint="PROMPT") from error


def _given(options: dict[str, Any]) -> JobSettings:
    return cast("JobSettings", {**options, "stop": list(options["stop"]) or None})
