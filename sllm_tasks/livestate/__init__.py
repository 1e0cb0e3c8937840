"""The live state: what runs where, right now, in Redis; all of it can be lost and is rebuilt from the ledger.

`docs/state.md` lists every key. Changes are Lua scripts in `lua/`, fenced by attempt and epoch.
"""

from sllm_tasks.livestate.store import LiveState

__all__ = ["LiveState"]
