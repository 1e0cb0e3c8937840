"""The pool against a model of it: any sequence of calls, by two users in one process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from loaders.errors import ContentDiscardedError, ContentMissingError, PoolBusyError
from loaders.memory.lease import ContentLease
from loaders.memory.pool import Pool
from loaders.memory.records import ContentKey

_CHUNK = 4096
_NUM_CHUNKS = 8
_KEYS = st.sampled_from([ContentKey(name) for name in "abcdef"])
#: Chunks per content, by its key: a key has one size.
_SIZES = {"a": 1, "b": 2, "c": 3, "d": 3, "e": 5, "f": 8}


@dataclass(eq=False)
class _Content:
    key: ContentKey
    #: What each chunk holds once it is filled.
    bytes_at: dict[int, int] = field(default_factory=dict)
    claims: dict[int, ContentLease] = field(default_factory=dict)
    leases: list[ContentLease] = field(default_factory=list)
    pinned: bool = False
    discarded: bool = False

    @property
    def num_chunks(self) -> int:
        return _SIZES[self.key]


class PoolMachine(RuleBasedStateMachine):
    """Every rule does one call to the pool and to the model, and compares."""

    leases = Bundle("leases")

    @initialize()
    def open(self) -> None:
        shared = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None)
        self._pool = self._open()
        self._contents: list[_Content] = []
        self._of: dict[ContentLease, _Content] = {}
        self._next_byte = 0

    @rule(target=leases, key=_KEYS)
    def lease(self, key: ContentKey) -> object:
        before = self._find(key)
        lease = self._pool.lease(key, _SIZES[key] * _CHUNK)
        kept = sum(content.num_chunks for content in self._contents if content.leases or content.pinned)
        if before is None:
            assert (lease is None) == (kept + _SIZES[key] > _NUM_CHUNKS)
        if lease is None:
            return multiple()
        content = before or self._appear(key)
        content.leases.append(lease)
        self._of[lease] = content
        assert lease.wait(0) == set(content.bytes_at)
        return lease

    @rule(lease=leases, limit=st.integers(1, 5))
    def claim(self, lease: ContentLease, limit: int) -> None:
        content = self._of.get(lease)
        if content is None:
            return
        if content.discarded and len(content.bytes_at) < content.num_chunks:
            with pytest.raises(ContentDiscardedError):
                lease.claim(limit)
            return
        if content.discarded:
            return
        left = set(range(content.num_chunks)) - set(content.bytes_at) - set(content.claims)
        first = min(left, default=0)
        claimed = lease.claim(limit)
        # The first there are, up to the first one that somebody has.
        assert list(claimed) == list(takewhile(left.__contains__, range(first, first + limit)))
        content.claims |= dict.fromkeys(claimed, lease)

    @rule(lease=leases, fill=st.booleans())
    def end_a_claim(self, lease: ContentLease, *, fill: bool) -> None:
        content = self._of.get(lease)
        if content is None:
            return
        own = [index for index, owner in content.claims.items() if owner is lease]
        if not own:
            return
        del content.claims[own[0]]
        if fill:
            self._next_byte = self._next_byte % 255 + 1
            lease.chunk(own[0])[:] = bytes([self._next_byte]) * _CHUNK
            content.bytes_at[own[0]] = self._next_byte
            lease.filled(own[0])
        else:
            lease.give_back(own[0])

    @rule(lease=consumes(leases))
    def release(self, lease: ContentLease) -> None:
        lease.close()
        if lease in self._of:
            self._forget(lease)

    @rule(lease=leases)
    def discard(self, lease: ContentLease) -> None:
        if lease in self._of:
            lease.discard()
            self._of[lease].discarded = True

    @rule(key=_KEYS)
    def pin(self, key: ContentKey) -> None:
        content = self._find(key)
        if content is None:
            with pytest.raises(ContentMissingError):
                self._pool.pin(key)
        else:
            self._pool.pin(key)
            content.pinned = True

    @rule(key=_KEYS)
    def unpin(self, key: ContentKey) -> None:
        self._pool.unpin(key)
        for content in self._contents:
            if content.key == key:
                content.pinned = False

    @rule(key=_KEYS)
    def free(self, key: ContentKey) -> None:
        content = self._find(key)
        if content is not None and content.leases:
            with pytest.raises(PoolBusyError):
                self._pool.free(key)
            return
        self._pool.free(key)
        if content is not None:
            self._contents.remove(content)

    @rule()
    def die_and_come_back(self) -> None:
        """What the process held is nobody's; the leases of before, which stay in the bundle, are of no use."""
        other = self._open()
        self._pool.close()
        self._pool = other
        for lease in list(self._of):
            lease.close()
            self._forget(lease)

    @invariant()
    def the_pool_is_as_the_model_says(self) -> None:
        self._pool.check()
        there = {record.key: record for record in self._pool.contents()}
        contents = {content.key: content for content in self._contents if not content.discarded}
        assert there.keys() == contents.keys()
        for key, record in there.items():
            assert record.filled_bytes == len(contents[key].bytes_at) * _CHUNK
            assert record.num_leases == len(contents[key].leases)
            assert record.pinned == contents[key].pinned
        usage = self._pool.usage
        leased = sum(content.num_chunks for content in self._contents if content.leases)
        pinned = sum(content.num_chunks for content in self._contents if content.pinned and not content.leases)
        held = sum(content.num_chunks for content in self._contents)
        assert usage.leased_bytes == leased * _CHUNK
        assert usage.pinned_bytes == pinned * _CHUNK
        assert usage.free_bytes == (_NUM_CHUNKS - held) * _CHUNK
        assert usage.evictable_bytes == (held - leased - pinned) * _CHUNK

    @invariant()
    def whoever_holds_a_lease_sees_what_was_filled(self) -> None:
        for lease, content in self._of.items():
            view = lease.map_image().view
            for index, byte in content.bytes_at.items():
                assert view[index * _CHUNK : (index + 1) * _CHUNK] == bytes([byte]) * _CHUNK

    def teardown(self) -> None:
        for lease in list(self._of):
            lease.close()
        self._pool.close()
        self._folder.cleanup()

    def _open(self) -> Pool:
        return Pool.open(Path(self._folder.name) / "pool", _NUM_CHUNKS * _CHUNK, _CHUNK)

    def _find(self, key: ContentKey) -> _Content | None:
        return next((each for each in self._contents if each.key == key and not each.discarded), None)

    def _appear(self, key: ContentKey) -> _Content:
        """A new content; what was evicted for it was nobody's, and nothing was while there was room."""
        there = {record.key for record in self._pool.contents()}
        evicted = [each for each in self._contents if not each.discarded and each.key not in there]
        held = sum(content.num_chunks for content in self._contents)
        assert not any(content.leases or content.pinned for content in evicted)
        assert not evicted or held + _SIZES[key] > _NUM_CHUNKS
        content = _Content(key)
        self._contents = [each for each in self._contents if each not in evicted] + [content]
        return content

    def _forget(self, lease: ContentLease) -> None:
        content = self._of.pop(lease)
        content.leases.remove(lease)
        content.claims = {index: owner for index, owner in content.claims.items() if owner is not lease}
        if content.discarded and not content.leases:
            self._contents.remove(content)


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class TestPoolModel(PoolMachine.TestCase):
    """Collected by pytest."""
