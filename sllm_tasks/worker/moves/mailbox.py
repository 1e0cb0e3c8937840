"""What one side of one migration has heard since it last looked."""

from __future__ import annotations

import queue

from sllm_tasks.migration.records import Notice, NoticeKind

#: Who heard nothing for so long looks at the state anyway: the message may have been lost.
_LOOK_AGAIN_S = 1.0


class Mailbox:
    """Filled by the ear's thread, emptied by the migration's."""

    def __init__(self) -> None:
        self._notices: queue.SimpleQueue[Notice] = queue.SimpleQueue()

    def put(self, notice: Notice) -> None:
        """Tell the migration's thread."""
        self._notices.put(notice)

    def wait(self) -> list[Notice]:
        """Wait for news, at most for a second, and take all that is there."""
        found: list[Notice] = []
        try:
            found.append(self._notices.get(timeout=_LOOK_AGAIN_S))
            while True:
                found.append(self._notices.get_nowait())
        except queue.Empty:
            return found


def tokens_from(notices: list[Notice], first: int) -> tuple[int, ...]:
    """Tokens from an index on, as far as the messages tell without a gap."""
    known: tuple[int, ...] = ()
    for notice in notices:
        begin = first + len(known) - notice.first
        if notice.kind is not NoticeKind.STATE and 0 <= begin < len(notice.token_ids):
            known += notice.token_ids[begin:]
    return known
