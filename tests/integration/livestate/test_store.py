"""The door itself: the cluster's clock, what happens while the server is away or full, and starting anew."""

from __future__ import annotations

import time

import pytest

from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate import LiveState
from tests.integration.livestate.world import World, job_spec
from tests.support.valkey import ValkeyServer


def test_cluster_time_is_the_servers_clock(world: World) -> None:
    seconds, _ = world.redis.time()
    assert abs(world.live.now_ms() / 1000 - seconds) < 5


def test_cluster_time_never_runs_backwards(world: World) -> None:
    times = [world.live.now_ms() for _ in range(1_000)]
    assert times == sorted(times)


def test_cluster_time_ignores_this_machines_clock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.live.now_ms()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= world.live.now_ms() < before + 60_000


def test_cluster_time_goes_on_while_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with ValkeyServer() as server, LiveState(server.url) as live:
        before = live.now_ms()
        server.kill()
        monkeypatch.setattr("sllm_tasks.livestate.clock._LIFE_S", -1.0)
        assert live.now_ms() >= before


def test_without_a_server_everything_says_so(tmp_path: object) -> None:
    with LiveState(f"unix://{tmp_path}/nothing") as live:
        for call in (live.now_ms, live.ping, live.counters, live.memory_is_full, live.written_at_ms):
            with pytest.raises(UnavailableError):
                call()
        with pytest.raises(UnavailableError):
            live.jobs.create(job_spec())


def test_a_restarted_server_gets_the_scripts_again_and_still_has_the_jobs() -> None:
    with ValkeyServer() as server, LiveState(server.url) as live:
        live.jobs.create(job_spec())
        server.kill()
        with pytest.raises(UnavailableError):
            live.ping()
        server.start()
        live.jobs.create(job_spec("job_2"))
        assert sorted(live.jobs.waiting()) == ["job_1", "job_2"]


def test_a_full_server_is_told_from_one_that_is_away() -> None:
    with ValkeyServer() as server, LiveState(server.url) as live:
        assert not live.memory_is_full()
        with server.client() as client:
            client.config_set("maxmemory", 1)
        assert live.memory_is_full()
        for write in (live.written_at_ms, lambda: live.jobs.create(job_spec())):
            with pytest.raises(UnavailableError):
                write()


def test_a_write_tells_the_servers_time(world: World) -> None:
    before, written = world.live.written_at_ms(), world.live.written_at_ms()
    assert before <= written <= before + 60_000


def test_counters_count(world: World) -> None:
    assert world.live.counters() == {}
    world.live.count("messages_rejected")
    world.live.count("messages_rejected")
    assert world.live.counters() == {"messages_rejected": 2}


def test_closing_twice_does_no_harm(live_url: str) -> None:
    live = LiveState(live_url)
    live.close()
    live.close()
