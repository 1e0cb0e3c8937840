"""The Lua scripts, each behind the functions that all of them share."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from redis import Redis
from redis.commands.core import Script


@cache
def _source(name: str) -> str:
    folder = files("sllm_tasks.livestate") / "lua"
    return (folder / "_lib.lua").read_text() + (folder / f"{name}.lua").read_text()


class Scripts:
    """Scripts by name, registered once per connection pool; a restarted server gets them again by itself."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._registered: dict[str, Script] = {}

    def __getitem__(self, name: str) -> Script:
        script = self._registered.get(name)
        if script is None:
            script = self._registered[name] = self._redis.register_script(_source(name))
        return script
