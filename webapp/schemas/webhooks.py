"""Bodies of requests about webhooks, and the part of a job that is about one."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from sllm_tasks.ledger.states import WebhookEvent
from webapp.schemas.fields import Body, TenantName


def _web_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # Its text would repeat what was sent.
        is_url = False
    if not is_url or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("must be a URL that begins with http:// or https://")
    if parts.username is not None or parts.fragment:
        raise ValueError("must hold no user, password or fragment")
    return value


def _distinct(events: list[WebhookEvent]) -> list[WebhookEvent]:
    if len(set(events)) < len(events):
        raise ValueError("must not name an event twice")
    return events


#: Where it leads is looked at whenever something is sent there.
_WebUrl = Annotated[str, StringConstraints(max_length=2048), AfterValidator(_web_url)]


class JobWebhook(Body):
    """Where a job's end is told, and which ends are."""

    url: _WebUrl
    events: Annotated[
        list[Annotated[WebhookEvent, Field(strict=False)]], Field(min_length=1), AfterValidator(_distinct)
    ] = list(WebhookEvent)  # noqa: RUF012 - pydantic copies it


class WebhookRequest(JobWebhook):
    """A new webhook for all jobs of a tenant."""

    tenant: TenantName = "default"


class WebhookState(Body):
    """Whether anything is sent to a webhook."""

    enabled: bool
