"""What a trusted proxy says of a client is believed; what anybody else says is not."""

from __future__ import annotations

from typing import Any

import pytest

from sllm_tasks.networks import parse_networks
from webapp.proxies import TrustedProxies


def _seen(peer: str, **headers: str) -> tuple[str, str]:
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], _start: object) -> list[bytes]:
        seen.update(environ)
        return []

    environ = {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http", **headers}
    TrustedProxies(application, parse_networks("10.0.0.0/8, ::1"))(environ, lambda *_: lambda _bytes: None)
    return seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]


def test_a_trusted_proxy_tells_who_asked_and_how() -> None:
    headers = {"HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_X_FORWARDED_PROTO": "https"}
    assert _seen("10.1.2.3", **headers) == ("203.0.113.9", "https")
    assert _seen("::1", **headers) == ("203.0.113.9", "https")
    assert _seen("198.51.100.1", **headers) == ("198.51.100.1", "http")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        # What a client claims stands before what the proxies add.
        ("127.0.0.1, 203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("10.7.7.7", "10.7.7.7"),
        ("", "10.1.2.3"),
        ("garbage, 203.0.113.9", "203.0.113.9"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(forwarded: str, client: str) -> None:
    assert _seen("10.1.2.3", HTTP_X_FORWARDED_FOR=forwarded)[0] == client


def test_a_scheme_that_is_none_is_not_believed() -> None:
    assert _seen("10.1.2.3", HTTP_X_FORWARDED_PROTO="javascript")[1] == "http"
