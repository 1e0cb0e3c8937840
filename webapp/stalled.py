"""Clients that neither read nor go on with what they send: each holds a thread, so none may do that for long."""

from __future__ import annotations

import socket
import struct
from typing import Final

#: Longer than a network's hiccup. A reader of a stream who was dropped comes back with `Last-Event-ID`.
STALLED_S: Final = 30


def limit_stalls(listener: socket.socket, seconds: float) -> None:
    """Let every connection that `listener` accepts fail when nothing moves on it for so long.

    By the kernel's own limits, which Linux hands on to what is accepted: gunicorn makes connections block without one.
    """
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        listener.setsockopt(socket.SOL_SOCKET, option, limit)
