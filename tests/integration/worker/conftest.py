"""Workers' tables of replicas over a live state of their own."""

from __future__ import annotations

from tests.integration.livestate.conftest import live, live_url, redis, valkey_server, world

__all__ = ["live", "live_url", "redis", "valkey_server", "world"]
