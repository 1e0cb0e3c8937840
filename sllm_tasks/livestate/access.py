"""Which process may do what on the broker: rules of a user for each kind of process, for Redis 7 or Valkey.

A process writes the keys that it is named for, and reads the live state; a node agent reads of nodes and gpus only. It
pops its own queues, and puts messages into those of the processes that it sends to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final


class Process(StrEnum):
    """Kinds of processes that open the broker."""

    WEB = "web"
    ROUTER = "router"
    CONTROL = "control"
    NODE = "node"
    WORKER = "worker"

    @property
    def user(self) -> str:
        """Its name on the broker."""
        return f"sllm-{self}"


#: May do everything: for operators.
ADMIN: Final = "sllm-admin"

_EVERYBODY: Final = frozenset(Process)
#: Whoever may free a job's place does so by a script that follows the job wherever it leads.
_JOBS: Final = _EVERYBODY - {Process.NODE}

#: Keys of docs/state.md and who writes them. What is not here nobody may write.
WRITERS: Final[Mapping[str, frozenset[Process]]] = {
    "sllm:job:<job>": _JOBS,
    "sllm:job:<job>:events": _JOBS,
    "sllm:waiting": _JOBS,
    "sllm:waiting:<model>": _JOBS,
    "sllm:tenants:waiting": _JOBS,
    "sllm:tenants:running": _JOBS,
    "sllm:tenants:served": _JOBS,
    "sllm:gates": frozenset({Process.WEB, Process.ROUTER}),
    "sllm:drains": frozenset({Process.WEB, Process.CONTROL}),
    "sllm:leases": _JOBS,
    "sllm:gpus": frozenset({Process.CONTROL, Process.WORKER}),
    "sllm:gpu:<gpu>": _JOBS,
    "sllm:gpu:<gpu>:replicas": _JOBS,
    "sllm:gpu:<gpu>:jobs": _JOBS,
    "sllm:gpu:<gpu>:migrations": _JOBS,
    "sllm:migrations": _JOBS,
    "sllm:migration:<migration>": _JOBS,
    "sllm:migration:<migration>:tokens": _JOBS,
    "sllm:replica:<replica>": _JOBS,
    "sllm:warm:<model>": _JOBS,
    "sllm:nodes": frozenset({Process.NODE}),
    "sllm:node:<node>": frozenset({Process.NODE}),
    "sllm:feed": _EVERYBODY,
    "sllm:reports": _EVERYBODY,
    "sllm:router:leader": frozenset({Process.ROUTER}),
    "sllm:router:epoch": frozenset({Process.ROUTER}),
    "sllm:router:kicked": _JOBS,
    "sllm:operation:<operation>": frozenset({Process.WEB, Process.CONTROL, Process.NODE}),
    "sllm:counters": _EVERYBODY,
    "sllm:metrics": frozenset({Process.WEB, Process.ROUTER, Process.CONTROL}),
    "sllm:rate:<kind>:<key>": frozenset({Process.WEB}),
    "sllm:probe": frozenset({Process.WEB, Process.CONTROL}),
}

_QUEUES: Final[Mapping[Process, str]] = {
    Process.ROUTER: "router*",
    Process.CONTROL: "control*",
    Process.NODE: "node.*",
    Process.WORKER: "gpu.*",
}

#: Without those that look at, or change, more than keys that are named.
_READ: Final = "-@all +@read -@dangerous -scan -randomkey -dbsize"
_READ_AND_WRITE: Final = "-@all +@read +@write -@dangerous -@scripting -scan -randomkey -dbsize"
#: What names no key; scripts are checked command by command while they run.
_KEYLESS: Final = (
    "-@all +@connection -@dangerous +@transaction +time +publish +subscribe +unsubscribe "
    "+eval +evalsha +script|load +script|exists"
)
_CHANNELS: Final = "resetchannels &sllm:bell:* &sllm:migrations:*"
_SEND: Final = "-@all +lpush +llen +sadd +smembers"


def rules(process: Process) -> str:
    """The rules of a process's user, as ACL SETUSER takes them, without its password."""
    patterns = {re.sub(r"<\w+>", "*", key) for key, writers in WRITERS.items() if process in writers}
    least = sorted(p for p in patterns if not any(p != other and fnmatchcase(p, other) for other in patterns))
    written = f"{_KEYLESS} ({_READ_AND_WRITE} {_keys(least)})"
    if process is Process.NODE:
        # Who has a checkpoint, and which gpus that node has.
        return " ".join(["resetchannels", written, f"({_READ} %R~sllm:gpus %R~sllm:gpu:*)", *_queue_rules(process)])
    return " ".join([_CHANNELS, written, f"({_READ} %R~sllm:*)", *_queue_rules(process)])


def _queue_rules(process: Process) -> list[str]:
    if process is Process.WEB:
        return [f"({_SEND} {_keys(['_kombu.*', _QUEUES[Process.ROUTER], _QUEUES[Process.WORKER]])})"]
    own = f"({_READ_AND_WRITE} +watch +evalsha {_keys(['unacked*', '_kombu.*', _QUEUES[process]])})"
    # What somebody took and did not acknowledge is put back by whoever notices, whose queue it ever was.
    found = [own, f"({_SEND} +rpush {_keys(_QUEUES.values())})"]
    # Control throws away the queues of gpus that are gone.
    return [*found, f"(-@all +del {_keys([_QUEUES[Process.WORKER]])})"] if process is Process.CONTROL else found


def _keys(patterns: Iterable[str]) -> str:
    return " ".join(f"~{pattern}" for pattern in patterns)


def acl_file(password_hashes: Mapping[str, str]) -> str:
    """The whole file of users; `password_hashes` has the SHA-256 of each user's password, the admin's too."""
    lines = [f"user {process.user} on #{password_hashes[process.user]} {rules(process)}" for process in Process]
    admin = f"user {ADMIN} on #{password_hashes[ADMIN]} ~* &* +@all"
    return "\n".join(["user default off", admin, *lines]) + "\n"
