"""Which proxy the environment names for a URL."""

from __future__ import annotations

import pytest

from loaders.remote.proxies import proxy_of
from loaders.remote.url import parse_url


@pytest.mark.parametrize(
    ("named", "host"),
    [
        ("http://proxy:3128", "proxy:3128"),
        ("http://me:hidden@proxy:3128/", "proxy:3128"),
        ("http://proxy", "proxy:80"),
        ("https://proxy", "proxy:443"),
        ("proxy", "proxy:80"),
        ("http://[::1]", "[::1]:80"),
        ("http://[::1]:3128", "[::1]:3128"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_has_its_own_port_whatever_is_asked_of_it(
    monkeypatch: pytest.MonkeyPatch, named: str, host: str, scheme: str
) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", named)
    monkeypatch.delenv("no_proxy", raising=False)
    found = proxy_of(parse_url(f"{scheme}://nowhere.invalid/checkpoint"))
    assert found is not None
    assert found.host == host
