"""The cluster's secret: given by a setting, or made once in the state folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sllm_tasks.config import Settings, make_private
from sllm_tasks.errors import ConfigError


def cluster_secret(settings: Settings) -> str:
    """Read the secret that signs triggers; processes of one state folder share one.

    Raises ConfigError for a secret of no characters, by which everybody could sign.
    """
    if settings.secret is not None:
        return settings.secret.get_secret_value()
    path = settings.home / "secret"
    if not path.exists():
        make_private(settings.home)
        _write_once(path, secrets.token_urlsafe(32))
    secret = path.read_text(encoding="ascii")
    if not secret:
        raise ConfigError(f"{path} is empty: delete it and start all processes of this state folder again")
    return secret


def _write_once(path: Path, value: str) -> None:
    """Publish a complete file, or leave the one that another process was faster to make."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(value)
        file.flush()
        # A link outlives a loss of power that what it leads to does not.
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
