"""Signatures of Standard Webhooks, scheme v1: HMAC-SHA256 over id, timestamp and body."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import datetime

_PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    """Make the secret of an endpoint."""
    return _written(secrets.token_bytes(_SECRET_BYTES))


def tenant_secret(cluster_secret: str, tenant: str) -> str:
    """The secret of what a tenant's jobs send to URLs of their own; it holds as long as the cluster's does."""
    return _written(hmac.new(cluster_secret.encode(), f"webhooks of {tenant}".encode(), hashlib.sha256).digest())


def signed_headers(secret: str, message_id: str, body: bytes, *, now: datetime) -> dict[str, str]:
    """Headers by which a receiver knows that a message is ours, new and whole."""
    timestamp = str(int(now.timestamp()))
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signature = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def _written(key: bytes) -> str:
    return _PREFIX + base64.b64encode(key).decode()
