"""Fixtures of the client's tests: a real server process in front of the played worker."""

from collections.abc import Iterator

import pytest

from sllm_tasks.client import Client
from sllm_tasks.config import Settings
from tests.support.valkey import live_url, valkey_server
from tests.support.web import Web, settings, web
from tests.support.web_server import WebServer

__all__ = ["live_url", "settings", "valkey_server", "web"]


@pytest.fixture
def server(settings: Settings, web: Web) -> Iterator[WebServer]:
    """A web process on the ledger and the live state of `web`."""
    with WebServer(settings) as running:
        # It may have taken longer than a gpu may be silent.
        web.worker.register()
        yield running


@pytest.fixture
def client(server: WebServer, web: Web) -> Iterator[Client]:
    """A client with a key that may do everything."""
    with Client(server.url, web.api_key) as opened:
        yield opened
