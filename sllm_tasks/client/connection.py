"""Where the server is and how to get in: arguments, then variables, then the file that `sllm up` leaves."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from sllm_tasks.errors import ConfigError

_DEFAULT_PORT = "8080"
#: Who waits for a job holds a connection, and how many are waited for at once is the caller's affair: with the default
#: of a hundred, the next job would not be submitted before one of those had ended.
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """The server's address and the caller's key."""

    url: str
    api_key: str | None = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}


def find_connection(
    url: str | None = None, api_key: str | None = None, environ: Mapping[str, str] = os.environ
) -> Connection:
    """Settle what the caller left out.

    Raises ConfigError if `<home>/client.toml` cannot be read, or nothing can be sent with what was found.
    """
    url = (url or environ.get("SLLM_URL") or "").rstrip("/")
    api_key = (api_key or environ.get("SLLM_API_KEY") or "").strip()
    if not url or not api_key:
        stored = _read_client_file(_home(environ) / "client.toml")
        # A key that belongs to another server is not sent to this one.
        if not api_key and url in {"", stored.get("url")}:
            api_key = stored.get("api_key", "")
        url = url or stored.get("url") or f"http://127.0.0.1:{environ.get('SLLM_PORT') or _DEFAULT_PORT}"
    _check(url, api_key)
    return Connection(url=url, api_key=api_key or None)


def _check(url: str, api_key: str) -> None:
    try:
        parts = httpx2.URL(url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.host)
    except httpx2.InvalidURL:
        is_url = False
    if not is_url:
        raise ConfigError(f"{url} is no URL of a server, such as http://127.0.0.1:8080")
    if not (api_key.isascii() and api_key.isprintable()):
        raise ConfigError("the API key has characters that no key has: look at SLLM_API_KEY")


def _home(environ: Mapping[str, str]) -> Path:
    # The same rule as the server's settings, without importing what reads them.
    if home := environ.get("SLLM_HOME"):
        return Path(home)
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "sllm"


def _read_client_file(path: Path) -> dict[str, str]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return {name: value for name, value in values.items() if isinstance(value, str)}
