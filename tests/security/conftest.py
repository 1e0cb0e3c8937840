"""Fixtures of the tests of what attackers try."""

from tests.support.valkey import live_url, valkey_server
from tests.support.web import settings, web

__all__ = ["live_url", "settings", "valkey_server", "web"]
