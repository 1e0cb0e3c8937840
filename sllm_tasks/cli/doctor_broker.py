"""What `sllm doctor` looks at on the broker: the server itself, how we come to it, and who is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from sllm_tasks.cli.findings import Finding, Health, judged
from sllm_tasks.config import Settings
from sllm_tasks.livestate.connection import PREFIX

#: The first version with everything that the live state's scripts use.
_MIN_VERSION: Final = (6, 2)
#: Deadlines and leases go by the server's clock; what people read goes by ours.
_MAX_SKEW_S: Final = 2.0
_MAX_MEMORY_SHARE: Final = 0.8
#: More are waiting only when no control commits them.
_MAX_REPORTS: Final = 1000


def look_at_broker(settings: Settings) -> Iterator[Finding]:
    """Look at the server, if it answers."""
    yield from _look_at_the_way(settings)
    client = Redis.from_url(settings.live_url, socket_timeout=2, socket_connect_timeout=2, decode_responses=True)
    try:
        yield from _look_at_clock(client)
        yield from _look_at_processes(client)
        yield from _look_at_server(client)
    except NoPermissionError:
        remedy = "run it with SLLM_REDIS_URL_FILE=.../admin.url"
        yield Finding("redis settings", Health.WARNING, "this user may not ask for them", remedy)
    except ResponseError as error:
        # It answers, but hides what its provider has set.
        remedy = "where its provider shows them: maxmemory-policy noeviction, appendonly yes"
        yield Finding("redis settings", Health.WARNING, str(error), remedy)
    except RedisError as error:
        yield Finding("redis", Health.ERROR, str(error), "start it (`sllm up` brings one), or set SLLM_REDIS_URL")
    finally:
        client.close()


def _look_at_the_way(settings: Settings) -> Iterator[Finding]:
    url = urlsplit(settings.live_url)
    if url.scheme == "unix" or _is_this_machine(url.hostname or ""):
        return
    remedy = "use rediss://: messages are signed, prompts are not encrypted"
    yield judged(
        "redis encryption", url.scheme, is_well=url.scheme == "rediss", otherwise=Health.WARNING, remedy=remedy
    )
    user = url.username or ("a password for all" if url.password else "no password")
    is_known = bool(url.password)
    yield judged("redis user", user, is_well=is_known, otherwise=Health.ERROR, remedy="`sllm config acl` makes users")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _look_at_clock(client: Redis) -> Iterator[Finding]:
    seconds, micros = client.time()
    skew_s = abs(time.time() - seconds - micros / 1e6)
    is_well = skew_s <= _MAX_SKEW_S
    yield judged(
        "clock", f"{skew_s:.1f} s from redis", is_well=is_well, otherwise=Health.WARNING, remedy="run chrony or ntpd"
    )


def _look_at_processes(client: Redis) -> Iterator[Finding]:
    num_gpus = client.zcount(f"{PREFIX}gpus", time.time() * 1000, "+inf")
    yield judged("workers", f"{num_gpus} gpus", is_well=num_gpus > 0, otherwise=Health.WARNING, remedy="sllm worker")
    leads = bool(client.exists(f"{PREFIX}router:leader"))
    yield judged("router", "leads" if leads else "none", is_well=leads, otherwise=Health.WARNING, remedy="sllm router")
    num_reports = client.xlen(f"{PREFIX}reports")
    is_well = num_reports <= _MAX_REPORTS
    yield judged(
        "control", f"{num_reports} reports wait", is_well=is_well, otherwise=Health.WARNING, remedy="sllm control"
    )


def _look_at_server(client: Redis) -> Iterator[Finding]:
    info: dict[str, Any] = client.info()
    version = str(info.get("valkey_version") or info["redis_version"])
    is_new = tuple(int(part) for part in version.split(".")[:2]) >= _MIN_VERSION
    remedy = "install Redis 6.2 or later, or Valkey"
    yield judged("redis version", version, is_well=is_new, otherwise=Health.ERROR, remedy=remedy)
    used, limit = int(info["used_memory"]), int(info["maxmemory"])
    has_room = limit == 0 or used <= limit * _MAX_MEMORY_SHARE
    detail = f"{used / 2**20:.0f} MiB of {limit / 2**20:.0f}" if limit else f"{used / 2**20:.0f} MiB, no limit"
    yield judged("redis memory", detail, is_well=has_room, otherwise=Health.WARNING, remedy="raise maxmemory")
    for name, wanted, otherwise in (
        ("maxmemory-policy", "noeviction", Health.ERROR),
        ("appendonly", "yes", Health.WARNING),
    ):
        value = str(client.config_get(name).get(name, "not told"))
        remedy = f"set {name} {wanted}"
        yield judged(f"redis {name}", value, is_well=value == wanted, otherwise=otherwise, remedy=remedy)
