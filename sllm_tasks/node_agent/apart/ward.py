"""The agent's side of the nursery: ask for a process, end it."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

#: The nursery forks within milliseconds; one that hangs is not waited for.
_PATIENCE_S = 5.0


class Ward:
    """A process that the nursery forked for us; its status is the nursery's."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._has_ended = False

    def kill(self) -> None:
        """Send SIGKILL; nothing happens if it has ended."""
        if not self._has_ended:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self) -> None:
        """Wait for its end."""
        if not self._has_ended:
            # Not `select`, which looks at the first 1,024 descriptors only.
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            ended.poll()
            os.close(self._pidfd)
            self._has_ended = True


def forked_from(nursery: Path, work: str, streams: Sequence[int]) -> Ward | None:
    """Have a piece of work begin with these as its standard streams; None where no nursery listens.

    The streams may be held for longer where one listens and does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_PATIENCE_S)
        try:
            connection.connect(os.fspath(nursery))
            socket.send_fds(connection, [work.encode()], streams)
            _, fds, _, _ = socket.recv_fds(connection, 1, 1)
        except OSError:
            return None
    return Ward(fds[0]) if fds else None
