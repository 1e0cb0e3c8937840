"""The proxies that the environment names: `http_proxy`, `https_proxy`, `no_proxy`."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from loaders.remote.url import RemoteUrl

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and what it wants to see."""

    #: With the port.
    host: str
    #: Who asks, if it wants to know.
    headers: dict[str, str] = field(repr=False)


def proxy_of(url: RemoteUrl) -> Proxy | None:
    """Find the proxy for a URL, if it has one."""
    text = getproxies().get(url.scheme)
    if not text or proxy_bypass(url.host):
        return None
    parts = urlsplit(text if "://" in text else f"http://{text}")
    credentials, _, host = parts.netloc.rpartition("@")
    encoded = b64encode(unquote(credentials).encode()).decode("ascii")
    # The proxy's own, whatever is asked of it.
    port = "" if parts.port else f":{_PORTS.get(parts.scheme, 80)}"
    return Proxy(host.rstrip(":") + port, {"Proxy-Authorization": f"Basic {encoded}"} if credentials else {})
