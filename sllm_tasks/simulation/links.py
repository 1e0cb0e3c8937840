"""Something that bytes pass at a limited rate: a disk, a network card, a gpu's PCIe lanes."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from math import inf

from sllm_tasks.simulation.clock import Action, Clock, Timer

#: A transfer counts as half its size after so long; the constant of the node's own loader (`loaders.memory.ranking`).
_AGING_S = 10.0
#: Less than a byte is rounding.
_DONE_BYTES = 0.5


class Discipline(StrEnum):
    """Who passes a link first."""

    #: One after another, as the paper's loading queue does.
    FCFS = "fcfs"
    #: All at once, each at the same share of the rate.
    SHARING = "sharing"
    #: The one with the fewest bytes left, which count for less as it grows older: ours.
    REMAINING = "remaining"


class Transfer:
    """Bytes on their way."""

    __slots__ = ("bytes_per_s", "done", "entered_s", "is_background", "max_bytes_per_s", "remaining_bytes", "served_s")

    def __init__(
        self, num_bytes: float, done: Action, *, entered_s: float, max_bytes_per_s: float, is_background: bool
    ) -> None:
        self.remaining_bytes = float(num_bytes)
        self.done = done
        self.entered_s = entered_s
        #: What its other end takes.
        self.max_bytes_per_s = max_bytes_per_s
        #: Nobody waits for it: it passes when nothing else does.
        self.is_background = is_background
        self.bytes_per_s = 0.0
        #: For how long it had a rate, the time in the queue left out.
        self.served_s = 0.0


class Link:
    """A rate, and the transfers that want it."""

    def __init__(self, clock: Clock, bytes_per_s: float, discipline: Discipline) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._rank = _RANKS[discipline]
        self._is_shared = discipline is Discipline.SHARING
        self._transfers: list[Transfer] = []
        self._settled_s = 0.0
        self._timer: Timer | None = None

    def send(
        self, num_bytes: float, done: Action, *, max_bytes_per_s: float = inf, is_background: bool = False
    ) -> Transfer:
        """Queue bytes; `done` is called when all have passed."""
        self.settle()
        transfer = Transfer(
            num_bytes,
            done,
            entered_s=self._clock.now_s,
            max_bytes_per_s=max_bytes_per_s,
            is_background=is_background,
        )
        self._transfers.append(transfer)
        self._share_out()
        return transfer

    def cancel(self, transfer: Transfer) -> None:
        """Take bytes out; harmless when they have passed."""
        if transfer in self._transfers:
            self.settle()
            self._transfers.remove(transfer)
            self._share_out()

    def settle(self) -> None:
        """Bring the remaining bytes of all transfers up to this moment."""
        elapsed_s = self._clock.now_s - self._settled_s
        self._settled_s = self._clock.now_s
        if elapsed_s <= 0:
            return
        for transfer in self._transfers:
            if transfer.bytes_per_s > 0:
                transfer.remaining_bytes -= transfer.bytes_per_s * elapsed_s
                transfer.served_s += elapsed_s

    def _share_out(self) -> None:
        for transfer in self._transfers:
            transfer.bytes_per_s = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._transfers:
            return
        if self._is_shared:
            self._share_equally()
        else:
            now_s = self._clock.now_s
            first = min(self._transfers, key=lambda transfer: (transfer.is_background, self._rank(transfer, now_s)))
            first.bytes_per_s = min(self.bytes_per_s, first.max_bytes_per_s)
        next_s = min(
            max(transfer.remaining_bytes, 0.0) / transfer.bytes_per_s
            for transfer in self._transfers
            if transfer.bytes_per_s > 0
        )
        self._timer = self._clock.after(next_s, self._pass)

    def _share_equally(self) -> None:
        """What one cannot take goes to the others."""
        left_bytes_per_s, num_left = self.bytes_per_s, len(self._transfers)
        for transfer in sorted(self._transfers, key=lambda transfer: transfer.max_bytes_per_s):
            transfer.bytes_per_s = min(transfer.max_bytes_per_s, left_bytes_per_s / num_left)
            left_bytes_per_s -= transfer.bytes_per_s
            num_left -= 1

    def _pass(self) -> None:
        self.settle()
        passed = [transfer for transfer in self._transfers if transfer.remaining_bytes <= _DONE_BYTES]
        self._transfers = [transfer for transfer in self._transfers if transfer.remaining_bytes > _DONE_BYTES]
        self._share_out()
        for transfer in passed:
            transfer.done()


def _by_arrival(transfer: Transfer, now_s: float) -> float:  # noqa: ARG001 - one signature for all ranks
    return transfer.entered_s


def _by_remaining(transfer: Transfer, now_s: float) -> float:
    return transfer.remaining_bytes / (1 + (now_s - transfer.entered_s) / _AGING_S)


_RANKS: dict[Discipline, Callable[[Transfer, float], float]] = {
    Discipline.FCFS: _by_arrival,
    Discipline.SHARING: _by_arrival,
    Discipline.REMAINING: _by_remaining,
}
