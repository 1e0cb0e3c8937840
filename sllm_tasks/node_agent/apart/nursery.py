"""A process that has the imports of all work behind it and forks one for each piece; `sllm up` keeps it for its agents.

The check of a checkpoint imports torch and transformers: four seconds of CPU, twice that beside others.
"""

from __future__ import annotations

import importlib
import os
import socket
import socketserver
import sys
import traceback
from pathlib import Path
from typing import Any

from sllm_tasks.node_agent.apart.link import serve
from sllm_tasks.node_agent.apart.process import Work


class _Handler(socketserver.BaseRequestHandler):
    """Runs in the forked process, which ends with it."""

    server: _Server

    def handle(self) -> None:
        """Become what was asked for, on the standard streams that came with the request."""
        # Whoever asks a nursery that died would wait for us.
        self.server.socket.close()
        word, fds, _, _ = socket.recv_fds(self.request, 64, 3)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        work = _module(Work(word.decode()))
        socket.send_fds(self.request, [b"."], [os.pidfd_open(os.getpid())])
        serve(work.run)


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    socket_type = socket.SOCK_SEQPACKET

    def handle_error(self, request: object, client_address: object) -> None:
        """Say what a process dies of; its last line is what the agent tells."""
        del request, client_address
        traceback.print_exc()


def main() -> None:
    """Listen at the path that the command line gives, until a signal ends it."""
    path = Path(sys.argv[1])
    for work in Work:
        _module(work)
    path.unlink(missing_ok=True)
    with _Server(os.fspath(path), _Handler) as server:
        server.serve_forever()


def _module(work: Work) -> Any:
    return importlib.import_module(f"{__package__}.{work}")


if __name__ == "__main__":
    main()
