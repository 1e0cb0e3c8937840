"""What a zygote is to start in tests: says where it is, then does what its word tells it."""

from __future__ import annotations

import os
import signal
import sys
import time


def main() -> None:
    """End with status 3, stay until SIGTERM and end with 0, or stay for ever."""
    how = sys.argv[1]
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif how == "polite":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    has_imports = "wave" in sys.modules
    print(how, os.environ.get("WORD"), has_imports, os.getsid(0) == os.getpid(), flush=True)
    print("oops", file=sys.stderr, flush=True)
    if how == "fail":
        sys.exit(3)
    time.sleep(60)
