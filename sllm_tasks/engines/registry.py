"""Find engines by name through the entry point group `sllm.engines`."""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from sllm_tasks.engines.base import Engine, EngineError

_GROUP = "sllm.engines"


class EngineUnknownError(EngineError):
    """No installed package offers an engine of that name."""


def engine_names() -> tuple[str, ...]:
    """Name every installed engine, sorted; imports none of them."""
    return tuple(sorted({point.name for point in entry_points(group=_GROUP)}))


def create_engine(name: str) -> Engine:
    """Make a new engine with no model in it; raises EngineUnknownError, or EngineError when it cannot be imported."""
    return _construct(_entry_point(name))


def preload_engine(name: str) -> None:
    """Import an engine, so that the first load does not have to; its libraries take seconds. Raises EngineError.

    What is in memory by then stays out of later garbage collections, which stop all threads: they would look at all
    that libraries hold for good each time.
    """
    _load(_entry_point(name))
    gc.collect()
    gc.freeze()


def _entry_point(name: str) -> EntryPoint:
    points = tuple(entry_points(group=_GROUP, name=name))
    if not points:
        known = ", ".join(engine_names()) or "none"
        raise EngineUnknownError(f"no engine is called {name!r}; installed: {known}")
    return points[0]


def _construct(point: EntryPoint) -> Engine:
    engine: Engine = _load(point)()
    return engine


def _load(point: EntryPoint) -> Callable[[], Engine]:
    try:
        factory: Callable[[], Engine] = point.load()
    except (ImportError, AttributeError) as error:
        raise EngineError(f"engine {point.name!r} ({point.value}) cannot be imported: {error}") from error
    return factory
