"""Find stop strings in text that arrives in pieces: an Aho-Corasick automaton, so that work does not grow with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _State:
    #: Length of the text that leads here; it is the longest suffix of the input that begins some stop string.
    depth: int
    next: dict[str, _State] = field(default_factory=dict)
    #: The state of the longest proper suffix; the root's is itself.
    fallback: _State | None = None
    #: Length of the longest stop string that ends here, 0 for none.
    matched: int = 0


def _automaton(stops: Iterable[str]) -> _State:
    root = _State(depth=0)
    for stop in stops:
        state = root
        for depth, char in enumerate(stop, start=1):
            state = state.next.setdefault(char, _State(depth=depth))
        state.matched = state.depth
    queue = deque(root.next.values())
    for state in queue:
        state.fallback = root
    while queue:
        state = queue.popleft()
        for char, child in state.next.items():
            child.fallback = _follow(state.fallback or root, char, root)
            child.matched = child.matched or child.fallback.matched
            queue.append(child)
    return root


def _follow(state: _State, char: str, root: _State) -> _State:
    while char not in state.next:
        if state is root:
            return root
        state = state.fallback or root
    return state.next[char]


class StopStringFilter:
    """Passes text on until a stop string is complete, and holds back what may become one.

    The stop string that ends first counts; of several that end at the same character, the longest. The answer does not
    depend on how the text was cut into pieces.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._root = _automaton(stop for stop in stops if stop)
        self._state = self._root
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Take more text and return what is now certain not to belong to a stop string."""
        if self.stopped:
            return ""
        for position, char in enumerate(text, start=1):
            self._state = _follow(self._state, char, self._root)
            if self._state.matched:
                self.stopped = True
                seen = self._held + text[:position]
                self._held = ""
                return seen[: len(seen) - self._state.matched]
        seen = self._held + text
        certain = len(seen) - self._state.depth
        self._held = seen[certain:]
        return seen[:certain]

    def flush(self) -> str:
        """Return what is still held back; no text follows."""
        held, self._held = self._held, ""
        return held
