"""On PYTHONPATH: a process whose wall clock is two hours ahead, while its monotonic clock is right.

libfaketime would need no help from Python, but since 3.11 Python waits by the monotonic clock in ways that 0.9.10 does
not know: with it, every wait of a thread with a time-out lasts two hours.
"""

import time

_AHEAD_S = 2 * 3600
_time, _time_ns = time.time, time.time_ns

time.time = lambda: _time() + _AHEAD_S
time.time_ns = lambda: _time_ns() + _AHEAD_S * 1_000_000_000
