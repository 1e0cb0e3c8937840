"""`sllm doctor`: what is wrong with this machine's setup, and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import click
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from sllm_tasks.cli.failures import Exit
from sllm_tasks.cli.output import output_option, show_list
from sllm_tasks.config import Settings, load_settings
from sllm_tasks.errors import SllmError
from sllm_tasks.ledger import schema

#: The first version with everything that the live state's scripts use.
_MIN_REDIS: Final = (6, 2)
_MIN_FREE_BYTES: Final = 2 * 2**30
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - looked at, not written to


class Health(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    #: Works, with less safety or speed.
    WARNING = "warning"
    #: Does not work.
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    health: Health
    detail: str
    #: What to do, empty when all is well.
    remedy: str = ""


@click.command()
@output_option
def doctor(output: str) -> int:
    """Look for what is wrong with this machine's setup; fails if something does not work."""
    settings, _ = load_settings()
    findings = [finding for look in _LOOKS for finding in look(settings)]
    show_list(
        output,
        [asdict(finding) for finding in findings],
        {
            "WHAT": lambda finding: finding["what"],
            "HEALTH": lambda finding: finding["health"],
            "DETAIL": lambda finding: finding["detail"],
            "TRY": lambda finding: finding["remedy"],
        },
    )
    return Exit.FAILURE if any(finding.health is Health.ERROR for finding in findings) else Exit.OK


def _look_at_redis(settings: Settings) -> Iterator[Finding]:
    client = Redis.from_url(settings.live_url, socket_timeout=2, socket_connect_timeout=2, decode_responses=True)
    try:
        info = client.info("server")
        version = str(info.get("valkey_version") or info["redis_version"])
        is_new = tuple(int(part) for part in version.split(".")[:2]) >= _MIN_REDIS
        yield _finding("redis version", is_new, version, Health.ERROR, "install Redis 6.2 or later, or Valkey")
        yield from _look_at_redis_settings(client)
    except RedisError as error:
        yield Finding("redis", Health.ERROR, str(error), "start it (`sllm up` brings one), or set SLLM_REDIS_URL")
    finally:
        client.close()


def _look_at_redis_settings(client: Redis) -> Iterator[Finding]:
    try:
        policy = str(client.config_get("maxmemory-policy")["maxmemory-policy"])
        append_only = str(client.config_get("appendonly")["appendonly"])
    except ResponseError:
        yield Finding("redis settings", Health.WARNING, "CONFIG GET is not allowed", "check noeviction and appendonly")
        return
    yield _finding("redis eviction", policy == "noeviction", policy, Health.ERROR, "set maxmemory-policy noeviction")
    yield _finding("redis persistence", append_only == "yes", append_only, Health.WARNING, "set appendonly yes")


def _look_at_ledger(settings: Settings) -> Iterator[Finding]:
    try:
        revision, expected = schema.current(settings.ledger_url), schema.head()
    except SllmError as error:
        yield Finding("ledger", Health.ERROR, str(error), "check SLLM_DATABASE_URL")
        return
    detail = f"revision {revision}, expected {expected}"
    yield _finding("ledger schema", revision == expected, detail, Health.ERROR, "sllm db upgrade")


def _look_at_secret(settings: Settings) -> Iterator[Finding]:
    is_shared = settings.secret is not None or settings.redis_url is None
    remedy = "set SLLM_SECRET_FILE to the same file on every machine"
    yield _finding("secret", is_shared, "given" if settings.secret else "of this state folder", Health.WARNING, remedy)


def _look_at_disk(settings: Settings) -> Iterator[Finding]:
    folder = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    is_enough = free >= _MIN_FREE_BYTES
    yield _finding("disk", is_enough, f"{free / 2**30:.1f} GiB free in {folder}", Health.WARNING, "make room")
    if _SHARED_MEMORY.exists():
        free = shutil.disk_usage(_SHARED_MEMORY).free
        remedy = "enlarge /dev/shm; checkpoints in DRAM live there"
        is_enough = free >= _MIN_FREE_BYTES
        yield _finding("shared memory", is_enough, f"{free / 2**30:.1f} GiB free", Health.WARNING, remedy)


def _look_at_processors(settings: Settings) -> Iterator[Finding]:
    num_cpus = len(os.sched_getaffinity(0))
    threads = settings.torch_threads
    detail = f"{num_cpus} cpus, torch threads {threads or 'not set'}"
    yield _finding("threads", (threads or 1) <= num_cpus, detail, Health.WARNING, "lower SLLM_TORCH_THREADS")
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20, check=True, text=True)
    except (OSError, subprocess.SubprocessError):
        yield Finding("gpu", Health.OK, "none: models run on the CPU")
    else:
        yield Finding("gpu", Health.OK, f"{done.stdout.count('GPU ')} NVIDIA")


def _finding(what: str, is_well: bool, detail: str, otherwise: Health, remedy: str) -> Finding:
    return Finding(what, Health.OK, detail) if is_well else Finding(what, otherwise, detail, remedy)


_LOOKS: Final[tuple[Callable[[Settings], Iterator[Finding]], ...]] = (
    _look_at_redis,
    _look_at_ledger,
    _look_at_secret,
    _look_at_disk,
    _look_at_processors,
)
