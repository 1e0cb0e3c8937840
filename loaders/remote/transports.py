"""Which transport a URL needs."""

from __future__ import annotations

import importlib

from loaders.errors import RemoteError
from loaders.remote.http_transport import HttpTransport
from loaders.remote.local_transport import LocalTransport
from loaders.remote.transport import Transport
from loaders.remote.url import RemoteUrl


def open_transport(url: RemoteUrl) -> Transport:
    """Make the transport for a URL; nothing is asked of it yet. Raises RemoteError where a library is missing."""
    if url.scheme == "file":
        return LocalTransport(url)
    if url.scheme == "s3":
        return _s3_transport(url)
    return HttpTransport(url)


def _s3_transport(url: RemoteUrl) -> Transport:
    try:
        # By name, because s3fs is an extra.
        module = importlib.import_module("loaders.remote.s3")
    except ModuleNotFoundError as error:
        raise RemoteError(f"{url}: {error.name} is not installed; install sllm-tasks[s3]") from error
    transport: Transport = module.s3_transport(url)
    return transport
