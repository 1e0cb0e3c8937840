"""The entry point: names of all commands, and what an error looks like to whoever typed one."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import click

from sllm_tasks.cli.failures import Exit, report
from sllm_tasks.cli.wording import as_typed, command_of
from sllm_tasks.client.errors import ApiError, UnsendableError
from sllm_tasks.errors import ErrorCode, SllmError

#: Command, where it is, and its line of help: `sllm --help` imports none of them.
_COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "up": ("processes:up", "Run a whole machine: broker, web, router, control, node agent and workers."),
    "web": ("processes:web", "Run the web process."),
    "router": ("processes:router", "Run the router, or a standby of it."),
    "control": ("processes:control", "Run control: what writes reports into the ledger."),
    "node": ("nodes:node", "Run this node's agent, list nodes, measure what their tiers deliver."),
    "worker": ("processes:worker", "Run the worker of one gpu."),
    "deploy": ("models:deploy", "Deploy a checkpoint as a model."),
    "delete": ("models:delete", "Delete a model."),
    "models": ("models:models", "List models."),
    "ps": ("cluster:ps", "List what is loaded where."),
    "status": ("cluster:status", "Show the nodes, their gpus and the models."),
    "run": ("prompting:run", "Send a prompt and print the answer as it comes."),
    "submit": ("prompting:submit", "Submit a job and print its id."),
    "job": ("jobs:job", "List, read, watch, cancel and retry jobs."),
    "migrate": ("migrations:migrate", "Move running jobs to other gpus."),
    "ckpt": ("ckpt:ckpt", "Import, convert, verify, inspect and time checkpoints on this machine."),
    "place": ("placements:place", "Say where checkpoints should be."),
    "replay": ("replay:replay", "Play a trace against the cluster."),
    "simulate": ("simulate:simulate", "Simulate a cluster under our policy and under others."),
    "trace": ("trace:trace", "Make traces of requests, and read public ones."),
    "queue": ("queues:queue", "List the queues of waiting jobs, pause and resume them."),
    "explain": ("explain:explain", "Show where a job of a model would run now, and why."),
    "decisions": ("decisions:decisions", "List what the router chose for jobs, and how right it was."),
    "key": ("keys:key", "Create, list and revoke API keys."),
    "user": ("users:user", "Make, list and disable users of the admin UI."),
    "webhook": ("webhooks:webhook", "Say who is told when jobs end, and see what has become of it."),
    "tenant": ("tenants:tenant", "List tenants, set their shares and limits."),
    "db": ("database:db", "Upgrade, check, back up and restore the ledger."),
    "config": ("configuration:config", "Show the settings and where each is from; make users of a broker."),
    "doctor": ("doctor:doctor", "Look for what is wrong with this machine's setup."),
}


#: Errors of a disk, or a user's part of it, that takes no more.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class _LazyGroup(click.Group):
    """Imports a command when it is called, so that help is fast and torch stays out."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(f"sllm_tasks.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("sllm-tasks"), prog_name="sllm")
def sllm() -> None:
    """Serverless LLM inference as a Celery task system."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and end the process with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        # Texts of models and users hold more than some terminals can show.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    try:
        status: Any = sllm.main(args=arguments, prog_name="sllm", standalone_mode=False)
    except click.Abort:
        status = Exit.INTERRUPTED
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except SllmError as error:
        status = report(error, _message(error, sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        status = Exit.FAILURE
    except OSError as error:
        if error.errno not in _FULL:
            raise
        click.echo(f"error: {error}", err=True)
        status = Exit.FAILURE
        # What could not be written is not tried once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status if isinstance(status, int) else Exit.OK)


def _message(error: SllmError, arguments: Sequence[str]) -> str:
    """What is wrong; a field of a request has the name that was typed."""
    # Other errors of this code are about files, and begin with a path.
    if isinstance(error, ApiError | UnsendableError) and error.code is ErrorCode.INVALID_REQUEST:
        return as_typed(str(error), command_of(sllm, arguments))
    return str(error)


if __name__ == "__main__":
    main()
