"""Who sends a request, where proxies that we trust stand in between."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from sllm_tasks.networks import Networks, is_within

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class TrustedProxies:
    """Puts the client's own address and scheme into a request that came by a trusted proxy, and into no other.

    A proxy appends the address that it was asked by, so the last one that is no proxy's is the client's; whatever
    stands before it is the client's own claim.
    """

    def __init__(self, application: WSGIApplication, trusted: Networks) -> None:
        self._application = application
        self._trusted = trusted

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        client = environ.get("REMOTE_ADDR", "")
        if self._is_proxy(client):
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "")
            if scheme in {"http", "https"}:
                environ["wsgi.url_scheme"] = scheme
            forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
            while self._is_proxy(client) and forwarded:
                client = forwarded.pop().strip() or client
            environ["REMOTE_ADDR"] = client
        return self._application(environ, start_response)

    def _is_proxy(self, text: str) -> bool:
        try:
            return is_within(ip_address(text), self._trusted)
        except ValueError:
            # A unix socket has no address, and a client may send anything as one.
            return False
