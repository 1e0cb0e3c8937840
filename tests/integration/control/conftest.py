"""A live state and a ledger for control to work between."""

from tests.integration.livestate.conftest import live, redis, world
from tests.support.valkey import live_url, valkey_server

__all__ = ["live", "live_url", "redis", "valkey_server", "world"]
