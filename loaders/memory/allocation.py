"""Which chunks a new content gets, and which contents have to go for it: pure, so that it is the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Chunks of the pool that lie side by side."""

    start: int
    num_chunks: int

    @property
    def stop(self) -> int:
        """The chunk after the last."""
        return self.start + self.num_chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupied:
    """An extent that a content holds."""

    extent: Extent
    content_id: int
    last_use_s: float
    evictable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Where a content goes, in the content's order, and the contents that are evicted for it."""

    extents: tuple[Extent, ...]
    evicted: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A content that may be evicted."""

    content_id: int
    last_use_s: float
    num_chunks: int


def allocate(num_chunks: int, pool_chunks: int, occupied: Iterable[Occupied]) -> Allocation | None:
    """Find room for a content; None if it does not fit even when all that is evictable goes.

    What has been unused for longest is evicted, no more than is needed, and nothing while enough is free. One extent is
    preferred over several, because then no memory has to be mapped for a load, where it costs nothing that was used
    later, nor more chunks: mapping takes 0.1 s per GB at worst, reading what was evicted several times that.
    """
    held = sorted(occupied, key=lambda each: each.extent.start)
    gaps = _gaps(pool_chunks, held)
    if num_chunks == 0:
        return Allocation(extents=())
    fitting = [gap for gap in gaps if gap.num_chunks >= num_chunks]
    if fitting:
        start = min(fitting, key=lambda gap: (gap.num_chunks, gap.start)).start
        return Allocation(extents=(Extent(start=start, num_chunks=num_chunks),))
    num_free = sum(gap.num_chunks for gap in gaps)
    if num_free >= num_chunks:
        return Allocation(extents=_scatter(num_chunks, gaps))
    candidates = _candidates(held)
    victims = _least_recently_used(num_chunks - num_free, candidates.values())
    if victims is None:
        return None
    newest_s = max(candidates[victim].last_use_s for victim in victims)
    old = {content_id: each for content_id, each in candidates.items() if each.last_use_s <= newest_s}
    max_evicted = sum(candidates[victim].num_chunks for victim in victims)
    side_by_side = _evict_side_by_side(num_chunks, max_evicted, gaps, held, old)
    if side_by_side is not None:
        return side_by_side
    kept = [each for each in held if each.content_id not in victims]
    return Allocation(extents=_scatter(num_chunks, _gaps(pool_chunks, kept)), evicted=victims)


def _gaps(pool_chunks: int, held: Sequence[Occupied]) -> list[Extent]:
    gaps = []
    start = 0
    for each in held:
        if each.extent.start > start:
            gaps.append(Extent(start=start, num_chunks=each.extent.start - start))
        start = each.extent.stop
    if start < pool_chunks:
        gaps.append(Extent(start=start, num_chunks=pool_chunks - start))
    return gaps


def _candidates(held: Sequence[Occupied]) -> dict[int, _Candidate]:
    sizes: dict[int, int] = {}
    for each in held:
        sizes[each.content_id] = sizes.get(each.content_id, 0) + each.extent.num_chunks
    return {
        each.content_id: _Candidate(
            content_id=each.content_id, last_use_s=each.last_use_s, num_chunks=sizes[each.content_id]
        )
        for each in held
        if each.evictable
    }


def _evict_side_by_side(
    num_chunks: int,
    max_evicted: int,
    gaps: Sequence[Extent],
    held: Sequence[Occupied],
    candidates: Mapping[int, _Candidate],
) -> Allocation | None:
    """The extent whose most recently used content was used longest ago; of equals the one that costs fewest chunks."""
    best: tuple[float, int] | None = None
    found: Allocation | None = None
    # None stands for no content: a gap.
    segments = sorted(
        [(gap, None) for gap in gaps] + [(each.extent, each.content_id) for each in held],
        key=lambda item: item[0].start,
    )
    for keep, run in groupby(segments, key=lambda item: item[1] is not None and item[1] not in candidates):
        if keep:
            continue
        usable = list(run)
        for first in range(len(usable)):
            victims = _victims(num_chunks, usable[first:])
            if victims is None:
                break
            cost = (
                max(candidates[victim].last_use_s for victim in victims),
                sum(candidates[victim].num_chunks for victim in victims),
            )
            if cost[1] <= max_evicted and (best is None or cost < best):
                best = cost
                extent = Extent(start=usable[first][0].start, num_chunks=num_chunks)
                found = Allocation(extents=(extent,), evicted=victims)
    return found


def _victims(num_chunks: int, segments: Sequence[tuple[Extent, int | None]]) -> frozenset[int] | None:
    """Contents in the first so many chunks of segments that lie side by side; None if these are fewer."""
    victims = set()
    for extent, content_id in segments:
        if content_id is not None:
            victims.add(content_id)
        num_chunks -= extent.num_chunks
        if num_chunks <= 0:
            return frozenset(victims)
    return None


def _least_recently_used(num_missing: int, candidates: Iterable[_Candidate]) -> frozenset[int] | None:
    """Contents by their last use until so many chunks are free, less those that turned out not to be needed."""
    victims: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda each: (each.last_use_s, each.content_id)):
        if num_missing <= 0:
            break
        victims.append(candidate)
        num_missing -= candidate.num_chunks
    if num_missing > 0:
        return None
    evicted = set()
    for victim in reversed(victims):
        if num_missing + victim.num_chunks <= 0:
            num_missing += victim.num_chunks
        else:
            evicted.add(victim.content_id)
    return frozenset(evicted)


def _scatter(num_chunks: int, gaps: Iterable[Extent]) -> tuple[Extent, ...]:
    """Take the largest gaps first, for fewest pieces; in the order of the pool."""
    extents = []
    for gap in sorted(gaps, key=lambda gap: (-gap.num_chunks, gap.start)):
        taken = min(num_chunks, gap.num_chunks)
        if taken:
            extents.append(Extent(start=gap.start, num_chunks=taken))
        num_chunks -= taken
    return tuple(sorted(extents, key=lambda extent: extent.start))
