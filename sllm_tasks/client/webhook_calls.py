"""Requests about webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from sllm_tasks.client.calls import Call, as_it_is
from sllm_tasks.client.records import Json, decode_list


def create_webhook(url: str, events: Sequence[str], tenant: str) -> Call[Json]:
    """Tell a URL of the jobs of a tenant; a repetition after a lost answer makes another one, as for a key."""
    body = {"url": url, "events": list(events), "tenant": tenant}
    return Call(method="POST", path="/api/v1/webhooks", json=body, decode=as_it_is)


def get_webhook_secret() -> Call[Json]:
    """What signs messages to URLs that jobs of the caller's tenant bring themselves."""
    return Call(method="GET", path="/api/v1/webhook-secret", decode=as_it_is)


def enable_webhook(webhook_id: str, *, enabled: bool) -> Call[Json]:
    """Send to a webhook again, or nothing more."""
    return Call(method="PATCH", path=_webhook_path(webhook_id), json={"enabled": enabled}, decode=as_it_is)


def delete_webhook(webhook_id: str) -> Call[None]:
    """Forget a webhook and what was sent to it."""
    return Call(method="DELETE", path=_webhook_path(webhook_id), decode=lambda _nothing: None)


def test_webhook(webhook_id: str) -> Call[Json]:
    """Send a message that says nothing."""
    return Call(method="POST", path=f"{_webhook_path(webhook_id)}/test", decode=as_it_is)


def get_deliveries(webhook_id: str, limit: int) -> Call[tuple[Json, ...]]:
    """List what was sent to a webhook last."""
    path = f"{_webhook_path(webhook_id)}/deliveries"
    return Call(method="GET", path=path, params={"limit": limit}, decode=decode_list)


def redeliver(webhook_id: str, delivery_id: str) -> Call[Json]:
    """Send a message at once, whatever has become of it."""
    path = f"{_webhook_path(webhook_id)}/deliveries/{quote(delivery_id, safe='')}/redeliver"
    return Call(method="POST", path=path, decode=as_it_is)


def _webhook_path(webhook_id: str) -> str:
    return f"/api/v1/webhooks/{quote(webhook_id, safe='')}"
