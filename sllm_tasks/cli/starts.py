"""How commands show where a job would start or has, and when its first token is expected."""

from __future__ import annotations

from sllm_tasks.client.records import Json


def place(option: Json) -> str:
    """The replica that it joins, or the gpus that are loaded for it."""
    return str(option["replica_id"] or ",".join(option["gpus"]) or "-")


def interval(option: Json) -> str:
    """Within what time its first token comes, four times of five."""
    start = option["start"]
    return "-" if start is None else f"{start['low_s']:.2f}-{start['high_s']:.2f} s"
