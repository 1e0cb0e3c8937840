"""Whether the client of a request is still there, without writing anything to it."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final

from flask import request

#: Where gunicorn puts the connection; other servers, and tests, do not say.
_SOCKET: Final = "gunicorn.socket"


def departure_of_client() -> Callable[[], bool]:
    """Tell of this request's client, at any later time and from any thread, whether it has closed its connection.

    Of a server that does not show the connection every client seems to stay.
    """
    connection = request.environ.get(_SOCKET)
    if not isinstance(connection, socket.socket):
        return lambda: False

    poller = select.poll()
    # The other side has sent its last byte, or the connection is broken; requests sent ahead do not matter.
    poller.register(connection, select.POLLRDHUP)
    return lambda: bool(poller.poll(0))
