"""What the doctor says about a broker."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from sllm_tasks.cli.doctor_broker import look_at_broker
from sllm_tasks.cli.findings import Health
from sllm_tasks.config import Settings
from tests.integration.livestate.world import World
from tests.support.valkey import ValkeyServer


def _healths(url: str, home: Path) -> dict[str, Health]:
    return {finding.what: finding.health for finding in look_at_broker(Settings(home=home, redis_url=url))}


def test_an_empty_broker_is_sound_and_nobody_is_there(live_url: str, tmp_path: Path) -> None:
    found = _healths(live_url, tmp_path)
    assert {what for what, health in found.items() if health is not Health.OK} == {"workers", "router"}


def test_who_is_there_is_seen(world: World, live_url: str, tmp_path: Path) -> None:
    world.add_gpu()
    world.live.router.lead("a router")
    assert set(_healths(live_url, tmp_path).values()) == {Health.OK}


def test_a_broker_that_may_forget_is_found_out(tmp_path: Path) -> None:
    with ValkeyServer("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100kb", "--appendonly", "no") as server:
        found = _healths(server.url, tmp_path)
    assert found["redis maxmemory-policy"] is Health.ERROR
    assert (found["redis memory"], found["redis appendonly"]) == (Health.WARNING, Health.WARNING)


def test_a_broker_whose_provider_hides_its_settings_is_there_all_the_same(tmp_path: Path) -> None:
    with ValkeyServer("--rename-command", "CONFIG", "") as server:
        found = _healths(server.url, tmp_path)
    assert "redis" not in found
    assert (found["redis memory"], found["redis settings"]) == (Health.OK, Health.WARNING)


@pytest.mark.parametrize(
    ("url", "encryption", "user"),
    [
        ("redis://broker.invalid:6379/0", Health.WARNING, Health.ERROR),
        ("redis://:pw@broker.invalid/0", Health.WARNING, Health.OK),
        ("rediss://sllm-web:pw@broker.invalid/0", Health.OK, Health.OK),
    ],
)
def test_a_broker_elsewhere_takes_encryption_and_a_user(
    url: str, encryption: Health, user: Health, tmp_path: Path
) -> None:
    way = islice(look_at_broker(Settings(home=tmp_path, redis_url=url)), 2)
    assert [finding.health for finding in way] == [encryption, user]
