"""`sllm config`: the settings of this machine, and users of a broker for all machines."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

import click

from sllm_tasks.cli.output import note, output_option, show_list
from sllm_tasks.config import load_settings, make_private, masked
from sllm_tasks.livestate.access import ADMIN, Process, acl_file


@click.group()
def config() -> None:
    """Show the settings and where each is from; make users of a broker."""


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


@config.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--url", default="redis://127.0.0.1:6379/0", show_default=True, help="Where all reach the server.")
def acl(folder: Path, url: str) -> None:
    """Write a user of the broker for each kind of process; passwords that FOLDER has already stay.

    FOLDER/users.acl is the `aclfile` of Redis 7 or Valkey; FOLDER/<process>.url is for SLLM_REDIS_URL_FILE.
    """
    server = _server_at(url)
    make_private(folder)
    hashes = {}
    for name, user in [("admin", ADMIN), *((process.value, process.user) for process in Process)]:
        path = folder / f"{name}.url"
        path.touch(mode=0o600)
        password = urlsplit(path.read_text(encoding="utf-8")).password or secrets.token_urlsafe(32)
        netloc = f"{user}:{password}@{server.netloc}"
        path.write_text(urlunsplit(server._replace(netloc=netloc)) + "\n", encoding="utf-8")
        hashes[user] = hashlib.sha256(password.encode()).hexdigest()
    (folder / "users.acl").write_text(acl_file(hashes), encoding="utf-8")
    note(f"{folder}: users.acl for the server, a URL with its password for each process")


def _server_at(url: str) -> SplitResult:
    try:
        server = urlsplit(url)
        is_server = server.scheme in {"redis", "rediss"} and server.hostname is not None and server.port != 0
    except ValueError:
        pass
    else:
        if is_server and server.username is None:
            return server
    raise click.BadParameter("must be redis://HOST:PORT/DB or rediss://…, without a user", param_hint="--url")
