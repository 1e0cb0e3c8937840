"""Where users want webhooks to go, as far as that can be refused at once."""

from __future__ import annotations

from urllib.parse import urlsplit

from sllm_tasks.config import Settings
from sllm_tasks.networks import parse_networks
from sllm_tasks.webhooks.addresses import ForbiddenAddressError, check_literal
from webapp.errors import FieldError, InvalidFieldsError


def check_target(url: str, pointer: str, settings: Settings) -> None:
    """Refuse an address that is spelled out and that no message would ever be sent to.

    Names are looked up when something is sent, and not here: what they lead to then may be another address.

    Raises InvalidFieldsError.
    """
    try:
        check_literal(urlsplit(url).hostname or "", parse_networks(settings.webhook_networks))
    except ForbiddenAddressError:
        detail = "must lead to a public address, or to one in a network that the setting webhook_networks names"
        raise InvalidFieldsError((FieldError(pointer=pointer, detail=detail, code="forbidden_address"),)) from None
