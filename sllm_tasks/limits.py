"""Bounds of what may be asked for: what the API refuses, the command line refuses before it asks."""

from __future__ import annotations

from typing import Final

MAX_TOKENS: Final = 10_000_000
MAX_TEMPERATURE: Final = 2.0
MAX_TOP_K: Final = 1_000_000
#: Seeds have 63 bits, so that every database and every language can hold one.
MAX_SEED: Final = 2**63 - 1
MAX_PRIORITY: Final = 9
#: 30 days, in seconds: nothing of a job outlives it.
MAX_LIFE_S: Final = 30 * 86_400

TENANT_NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
TENANT_NAME_IN_WORDS: Final = "1 to 63 of a-z 0-9 _ - beginning with a letter or a digit"
