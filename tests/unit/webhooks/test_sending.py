"""Signatures as the standard's own example has them, when to try again, and where a message may go."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from sllm_tasks.networks import parse_networks
from sllm_tasks.webhooks.addresses import ForbiddenAddressError, check_literal, may_reach, resolve
from sllm_tasks.webhooks.posting import PostError, post
from sllm_tasks.webhooks.schedule import next_try
from sllm_tasks.webhooks.signatures import new_secret, signed_headers, tenant_secret
from tests.support.receiver import receiving

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HERE = parse_networks("127.0.0.0/8")


def test_a_message_is_signed_as_the_standards_own_example() -> None:
    headers = signed_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        now=datetime.fromtimestamp(1614265330, UTC),
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_secrets_differ_and_are_long_enough() -> None:
    secrets = {new_secret(), new_secret(), tenant_secret("s", "a"), tenant_secret("s", "b"), tenant_secret("t", "a")}
    assert len(secrets) == 5
    assert {len(base64.b64decode(secret.removeprefix("whsec_"))) for secret in secrets} == {32}
    assert tenant_secret("s", "a") == tenant_secret("s", "a")


def test_a_message_is_tried_for_three_days() -> None:
    at, num_tries = NOW, 0
    while (due := next_try(num_tries + 1, at)) is not None:
        at, num_tries = due, num_tries + 1
    assert num_tries == 9
    assert timedelta(days=3) <= at - NOW <= timedelta(days=3.5)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.100.100.200",
        "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1", "fec0::1",
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001:0:1::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_not_reached(address: str) -> None:
    assert not may_reach(ip_address(address), ())


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111"])
def test_what_is_public_is_reached(address: str) -> None:
    assert may_reach(ip_address(address), ())


def test_a_network_that_the_operator_allows_is_reached_and_no_other() -> None:
    allowed = parse_networks("10.0.0.0/8, fd00::/8")
    assert may_reach(ip_address("10.9.8.7"), allowed)
    assert may_reach(ip_address("fd00::1"), allowed)
    assert not may_reach(ip_address("192.168.0.1"), allowed)


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]".strip("[]")])
def test_no_spelling_of_this_machine_leads_there(host: str) -> None:
    with pytest.raises(ForbiddenAddressError):
        resolve(host, 80, ())
    with pytest.raises(ForbiddenAddressError):
        check_literal(host, ())
    check_literal(host, parse_networks("127.0.0.0/8, ::1"))


@pytest.mark.parametrize("host", ["example.com", "no.such.name.example", "8.8.8.8", f"{'a' * 64}.example", "", "a..b"])
def test_names_are_not_looked_up_before_something_is_sent(host: str) -> None:
    check_literal(host, ())


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    with receiving() as receiver:
        receiver.statuses = [302]
        assert post(receiver.url, b"{}", {}, HERE) == 302
        assert len(receiver.got) == 1


def test_what_is_not_allowed_is_not_even_connected_to() -> None:
    with receiving() as receiver:
        with pytest.raises(PostError, match="may not reach"):
            post(receiver.url, b"{}", {}, ())
        assert receiver.got == []


@contextlib.contextmanager
def _dripping() -> Iterator[int]:
    """A server that sends a byte now and then, and never an end of a line."""
    stopping = threading.Event()

    def drip() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            while not stopping.wait(0.02):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        yield server.getsockname()[1]
        stopping.set()
        thread.join()


def test_a_receiver_that_is_slow_byte_by_byte_is_cut_off() -> None:
    began_s = time.monotonic()
    with _dripping() as port, pytest.raises(PostError):
        post(f"http://127.0.0.1:{port}/", b"{}", {}, HERE, timeout_s=0.3)
    assert time.monotonic() - began_s < 30
