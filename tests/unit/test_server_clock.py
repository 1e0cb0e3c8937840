"""Who asks for cluster time waits for a server that hangs only if nobody has ever heard from it."""

from __future__ import annotations

import threading
import time

import pytest
from redis import RedisError

from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate.clock import ServerClock


class _Server:
    """Tells 1,000 s, and so much later how long it was asked for."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        self.is_away = False

    def ask(self) -> tuple[int, int]:
        self.num_asked += 1
        if self.hangs.is_set():
            self.goes_on.wait(10)
        if self.is_away:
            raise RedisError("away")
        return 1_000, 0


def test_those_who_may_not_wait_ask_nobody() -> None:
    server = _Server()
    clock = ServerClock(server.ask)
    assert (clock.known_ms(), server.num_asked) == (None, 0)
    clock.now_ms()
    known_ms = clock.known_ms()
    assert known_ms is not None
    assert 999_000 <= known_ms <= 1_001_000
    assert server.num_asked == 1


def test_while_one_asks_a_server_that_hangs_the_others_go_by_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    server = _Server()
    clock = ServerClock(server.ask)
    clock.now_ms()
    monkeypatch.setattr("sllm_tasks.livestate.clock._LIFE_S", -1.0)
    server.hangs.set()
    asking = threading.Thread(target=clock.now_ms)
    asking.start()
    deadline_s = time.monotonic() + 10
    while server.num_asked < 2:
        assert time.monotonic() < deadline_s
    assert clock.now_ms() >= 999_000
    assert server.num_asked == 2
    server.goes_on.set()
    asking.join()


def test_before_the_first_answer_there_is_no_time() -> None:
    server = _Server()
    clock = ServerClock(server.ask)
    server.is_away = True
    with pytest.raises(UnavailableError):
        clock.now_ms()
    server.is_away = False
    assert clock.now_ms() >= 999_000


def test_half_of_the_time_that_an_answer_takes_lies_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic_s = [0.0]

    def ask() -> tuple[int, int]:
        monotonic_s[0] += 4.0
        return 1_002, 0

    monkeypatch.setattr("sllm_tasks.livestate.clock.time.monotonic", lambda: monotonic_s[0])
    assert ServerClock(ask).now_ms() == 1_004_000
