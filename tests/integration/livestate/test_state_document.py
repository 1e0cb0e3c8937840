"""docs/state.md names everything that the scripts and the Python code write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sllm_tasks
from sllm_tasks.cluster import NodeInfo
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.livestate.rates import RateKind
from sllm_tasks.livestate.router import NewReplica
from sllm_tasks.metrics import MIGRATION_ROUNDS, Sample
from sllm_tasks.migration.states import MigrationReason
from tests.integration.livestate.world import (
    FAR_MS,
    GPU,
    OTHER_GPU,
    World,
    job_spec,
    model_info,
    replica_order,
)
from tests.support.state_document import documented_keys, first_column

_PACKAGE = Path(sllm_tasks.__file__).parent
_LUA = "\n".join(path.read_text() for path in (_PACKAGE / "livestate" / "lua").glob("*.lua"))
_PYTHON = "\n".join(path.read_text() for path in _PACKAGE.rglob("*.py"))


def _find(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text))


def test_every_key_that_the_code_builds_is_documented() -> None:
    built = {f"sllm:{name}" for name in _find(r"\bP \.\. '([^']+)'", _LUA) | _find(r"{PREFIX}([a-z:]+)", _PYTHON)}
    known = [*(form.text for form in documented_keys()), *first_column("Channels")]
    assert {name for name in built if not any(text.startswith(name) for text in known)} == set()
    assert {text for text in known if not any(text.startswith(name) for name in built)} == set()


def test_every_documented_key_is_there_once_everything_has_happened(world: World) -> None:
    live = world.live
    claim = world.running_job("job_1")
    _begin_to_move(world, claim)
    live.jobs.create(job_spec("job_2", model="n"))
    live.jobs.create(job_spec("job_3", model="o"))
    world.apply("job_2", "replica_2", NewReplica(model=model_info("n"), gpus=(GPU,)))
    live.router.kick()
    live.fleet.beat_node(NodeInfo(name="node0", checkpoints=frozenset()), live.now_ms())
    live.operations.create("op_1", 1, {})
    live.operations.claim("op_1", 1, "agent", FAR_MS)
    live.drains.set(["node9"], "")
    live.count("messages_rejected")
    live.memory_is_full()
    live.metrics.add([Sample(MIGRATION_ROUNDS)])
    live.rates.take(RateKind.REQUESTS, "key", limit=1, amount=1)
    keys = {key.decode() for key in world.redis.keys("*")}
    assert {form.text for form in documented_keys() if not any(map(form.matches, keys))} == set()


def _begin_to_move(world: World, claim: Claim) -> None:
    world.append(claim, 0)
    world.add_gpu(OTHER_GPU, "worker_b", replica_order("replica_9", gpu=OTHER_GPU))
    migrations = world.live.migrations
    migrations.start("migration_1", "job_1", reason=MigrationReason.OPERATOR, target_replica="replica_9")
    migrations.acknowledge("migration_1", "worker_b", round_=0, num_tokens=0, prefix_hash="", seconds=0)
    migrations.send_round("migration_1", claim, 1, 0, [100])


@pytest.mark.parametrize(
    ("section", "in_lua", "in_python"),
    [
        ("Events of a job", r"(?:\bevent\(job, |events_key\(job\), '\*', 'kind', )'(\w+)'", None),
        ("Changes in the feed", r"\bchanged\('(\w+)'", r'feed", {"kind": "(\w+)"'),
        ("Reports", r"\breport\('(\w+)'", r'reports\.add\("(\w+)"'),
        ("Counters", r"\bcount\('(\w+)'", r'live\.count\("(\w+)"'),
    ],
)
def test_the_kinds_of_things_that_are_written_are_those_documented(
    section: str, in_lua: str, in_python: str | None
) -> None:
    written = _find(in_lua, _LUA) | (_find(in_python, _PYTHON) if in_python else set())
    assert written == set(first_column(section))
