"""`sllm up`, `web`, `router`, `control`, `worker`: start a process and stay with it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import click

from sllm_tasks.config import Settings, load_settings, make_private
from sllm_tasks.errors import ConfigError

_Command = TypeVar("_Command", bound=Callable[..., Any])

_home = click.option("--home", type=click.Path(path_type=Path), help="State folder.")
_log_level = click.option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")
_host = click.option("--host", help="Address the web process listens on.")
_port = click.option("--port", type=int, help="Port of the web process; 0 takes a free one.")
node_option = click.option("--node", help="Name of this node.")


def everywhere(command: _Command) -> _Command:
    """Add the options that every process has."""
    return _home(_log_level(command))


@click.command()
@everywhere
@_host
@_port
@click.option("--nodes", type=int, help="Nodes to start where there is no accelerator.")
@click.option("--gpus-per-node", type=int, help="CPU gpus of each of those nodes.")
def up(**flags: Any) -> int:
    """Run a whole machine until Ctrl-C."""
    return run_process("sllm_tasks.supervisor", flags)


@click.command()
@everywhere
@_host
@_port
def web(**flags: Any) -> int:
    """Run the web process."""
    settings = _settings(flags)
    # By entry point, because the web application is a package above this one.
    found = entry_points(group="sllm.processes", name="web")
    if not found:
        raise ConfigError("no installed package offers the web process; install sllm-tasks anew")
    run: Callable[[Settings], int] = next(iter(found)).load()
    return run(settings)


@click.command()
@everywhere
def router(**flags: Any) -> int:
    """Run the router, or a standby of it."""
    return run_process("sllm_tasks.router.main", flags)


@click.command()
@everywhere
def control(**flags: Any) -> int:
    """Run control."""
    return run_process("sllm_tasks.control.main", flags)


@click.command()
@everywhere
@node_option
@click.option("--gpu", type=int, help="Index of the gpu.")
@click.option("--device", help="cpu or cuda:<index>.")
def worker(**flags: Any) -> int:
    """Run the worker of one gpu."""
    return run_process("sllm_tasks.worker.main", flags)


def _settings(flags: dict[str, Any]) -> Settings:
    settings, _ = load_settings(flags)
    make_private(settings.home)
    return settings


def run_process(module: str, flags: dict[str, Any]) -> int:
    """Run what a module's `run` does with the settings, until it ends; returns its exit status."""
    settings = _settings(flags)
    # Imported here because a worker brings torch, which no other process is to carry.
    run: Callable[[Settings], int] = importlib.import_module(module).run
    return run(settings)
