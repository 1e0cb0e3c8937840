"""The live state needs no more than a Redis 6.2: commands and options of later servers are not used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

import sllm_tasks.livestate

_FOLDER = Path(sllm_tasks.livestate.__file__).parent
_OLDEST = (6, 2)

#: Methods of redis-py's client and pipeline that are no commands of the same name.
_NO_COMMANDS = frozenset({"close", "execute", "from_url", "pipeline", "pubsub", "register_script"})
#: Methods that are named unlike their command.
_OTHER_NAMES = {"delete": "DEL"}


def _calls_in_lua() -> Iterator[tuple[str, frozenset[str]]]:
    """Each command in the scripts with the words that are literally among its arguments."""
    for path in _FOLDER.glob("lua/*.lua"):
        for name, arguments in re.findall(r"redis\.call\('(\w+)'([^\n]*)", path.read_text()):
            yield name, frozenset(re.findall(r"'([A-Z]+)'", arguments))


def _calls_in_python() -> Iterator[tuple[str, frozenset[str]]]:
    """Each command that the client is asked for, with the names of its options."""
    for path in _FOLDER.glob("*.py"):
        for name, arguments in re.findall(r"(?:_redis|pipeline)\.(\w+)\(([^\n]*)", path.read_text()):
            if name not in _NO_COMMANDS:
                yield (
                    _OTHER_NAMES.get(name, name.upper()),
                    frozenset(option.upper() for option in re.findall(r"(\w+)=", arguments)),
                )


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _as_map(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {_text(name): entry for name, entry in value.items()}
    return {_text(name): entry for name, entry in zip(value[::2], value[1::2], strict=True)}


def _late_options(arguments: Any) -> Iterator[str]:
    """Options of a command that came after the oldest server, at whatever depth."""
    for argument in map(_as_map, arguments):
        if "token" in argument and "since" in argument and _version(_text(argument["since"])) > _OLDEST:
            yield _text(argument["token"]).upper()
        yield from _late_options(argument.get("arguments", []))


@pytest.mark.parametrize("calls", [_calls_in_lua, _calls_in_python], ids=["lua", "python"])
def test_no_command_or_option_is_newer_than_redis_6_2(calls: Any, redis: Redis) -> None:
    used = sorted(set(calls()), key=str)
    assert len(used) > 10
    for name, options in used:
        known = redis.execute_command("COMMAND DOCS", name)
        document = _as_map(next(iter(_as_map(known).values()))) if known else {}
        assert document, f"{name} is no command"
        assert _version(_text(document["since"])) <= _OLDEST, name
        assert not options & set(_late_options(document.get("arguments", []))), (name, options)
