"""What a move costs: the pause of the job's reader, bytes through Redis, and the tokens of other jobs meanwhile."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from scripts.bench_report import Report, Row
from scripts.moves.cluster import MovingCluster, Reader, moving_cluster
from scripts.moves.ways import Moved, Way, move
from sllm_tasks.client import Job

#: Targets of the project, for figures that say how far from them a measurement is.
_PAUSE_TOKEN_TIMES, _PAUSE_MS = 3, 20
_BYTES_PER_TOKEN, _BYTES_PER_MOVE = 16, 4096

_MAX_TOKENS = 1024
#: Others decode until nothing is left of it.
_CONTEXT = 3200
#: Nothing but decoding happens for so long before each move: what moves are compared with.
_QUIET_S = 1.0
#: After a move its reader is followed for so many tokens more.
_TOKENS_AFTER = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is measured: each way, so many times each, for every prompt and batch."""

    prompts: Sequence[int]
    #: Jobs on either gpu, the one that moves included.
    batches: Sequence[int]
    #: Ways of one turn, which begins with the next one for every job.
    turn: Sequence[Way]
    num_turns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One move."""

    way: Way
    batch: int
    moved: Moved
    pause_ms: float
    #: Median time between the reader's tokens before.
    token_ms: float

    @property
    def over_target(self) -> float:
        """The pause over what the project allows."""
        return self.pause_ms / (_PAUSE_TOKEN_TIMES * self.token_ms + _PAUSE_MS)


@dataclass(slots=True)
class Rates:
    """Tokens of other jobs, summed over moves."""

    quiet_tokens: int = 0
    quiet_ms: int = 0
    moving_tokens: int = 0
    moving_ms: int = 0

    @property
    def share(self) -> float:
        """Their rate while a job moves, over the one before."""
        return (self.moving_tokens / self.moving_ms) / (self.quiet_tokens / self.quiet_ms)


@dataclass(slots=True)
class Measured:
    """All samples."""

    samples: list[Sample] = field(default_factory=list)
    #: What other jobs produced, by batch.
    others: dict[int, Rates] = field(default_factory=lambda: defaultdict(Rates))
    num_failed: int = 0

    def of(self, way: Way) -> list[Sample]:
        """Those of one way."""
        return [sample for sample in self.samples if sample.way is way]


def measure(folder: Path, grid: Grid) -> Report:
    """Run the grid on a live cluster."""
    with moving_cluster(folder, max_jobs=max(grid.batches), context=_CONTEXT) as cluster:
        bench = _Bench(cluster, grid)
        for batch in grid.batches:
            bench.run_batch(batch)
        settings = cluster.settings.model_dump(mode="json", exclude={"home"})
    return _report(bench.found, grid, settings)


class _Bench:
    """Goes through a grid."""

    def __init__(self, cluster: MovingCluster, grid: Grid) -> None:
        self.found = Measured()
        self._cluster = cluster
        self._grid = grid
        self._chosen = random.Random(0)

    def run_batch(self, batch: int) -> None:
        """Move jobs of all prompts beside others, as many on either gpu: each goes where fewer are."""
        found: list[Sample] = []
        others = [self._cluster.submit(prompt_tokens=16, max_tokens=_CONTEXT - 64) for _ in range(2 * (batch - 1))]
        for number, prompt in enumerate(self._grid.prompts):
            found += self._move_one(batch, prompt, first=number % len(self._grid.turn))
        self._note_others(batch, others, [sample.moved for sample in found if sample.way is Way.MIGRATION])
        for job in others:
            job.cancel()
        self.found.samples += found

    def _move_one(self, batch: int, prompt: int, *, first: int) -> Iterator[Sample]:
        """Move one job again and again, at random moments; turns begin with another way for each job."""
        job = self._cluster.submit(prompt_tokens=prompt, max_tokens=_MAX_TOKENS)
        reader = Reader(self._cluster.client, job)
        reader.wait_for(8)
        for way in (*self._grid.turn[first:], *self._grid.turn[:first]) * self._grid.num_turns:
            time.sleep(_QUIET_S + self._chosen.random())
            moved = move(self._cluster, job, way)
            if moved is None:
                self.found.num_failed += 1
                continue
            reader.wait_for(moved.index + _TOKENS_AFTER)
            gaps_s = [reader.pause_s(index) for index in range(max(1, moved.index - 40), moved.index)]
            pause_ms = 1000 * reader.pause_s(moved.index)
            yield Sample(way=way, batch=batch, moved=moved, pause_ms=pause_ms, token_ms=1000 * median(gaps_s))
        job.cancel()
        reader.join()

    def _note_others(self, batch: int, others: Sequence[Job], moves: Sequence[Moved]) -> None:
        written_ms = [ms for job in others for ms in self._cluster.token_ms(job)]
        quiet_ms, rates = round(1000 * _QUIET_S), self.found.others[batch]
        for moved in moves:
            rates.quiet_tokens += sum(moved.began_ms - quiet_ms <= ms < moved.began_ms for ms in written_ms)
            rates.quiet_ms += quiet_ms
            rates.moving_tokens += sum(moved.began_ms <= ms < moved.ended_ms for ms in written_ms)
            rates.moving_ms += moved.ended_ms - moved.began_ms


def _report(found: Measured, grid: Grid, settings: dict[str, object]) -> Report:
    moves = found.of(Way.MIGRATION)
    migrations = [sample.moved.migration for sample in moves if sample.moved.migration is not None]
    pauses = {way: [sample.pause_ms for sample in found.of(way)] for way in Way}
    tokens = [migration.num_sent for migration in migrations]
    num_bytes = [migration.num_bytes for migration in migrations]
    allowed = [_BYTES_PER_TOKEN * count + _BYTES_PER_MOVE for count in tokens]
    shares = {batch: rates.share for batch, rates in found.others.items() if rates.quiet_tokens}
    rows = [
        *(Row(f"pause, {way}", "ms", tuple(pauses[way])) for way in Way),
        *(
            Row(f"pause, migration, batch {batch}", "ms", tuple(each.pause_ms for each in moves if each.batch == batch))
            for batch in grid.batches
        ),
        Row("token time", "ms", tuple(sample.token_ms for sample in moves)),
        Row("pause in token times", "", tuple(sample.pause_ms / sample.token_ms for sample in moves)),
        Row("a move, start to end", "ms", tuple(each.moved.ended_ms - each.moved.began_ms for each in moves)),
        Row("rounds", "", tuple(migration.round_acked for migration in migrations)),
        Row("output tokens moved", "", tuple(tokens)),
        Row("bytes that the source wrote", "", tuple(num_bytes)),
        *(Row(f"tokens of others, batch {batch}, moving over quiet", "", (share,)) for batch, share in shares.items()),
    ]
    figures = {
        "pause_ms": median(pauses[Way.MIGRATION]),
        "pause_p99_ms": quantiles(pauses[Way.MIGRATION], n=100, method="inclusive")[98],
        "pause_token_times": median(sample.pause_ms / sample.token_ms for sample in moves),
        "pause_over_target": median(sample.over_target for sample in moves),
        "pause_over_restart": median(pauses[Way.MIGRATION]) / median(pauses[Way.RESTART]),
        "pause_over_single_round": median(pauses[Way.MIGRATION]) / median(pauses[Way.SINGLE_ROUND]),
        "bytes_per_token": sum(num_bytes) / sum(tokens),
        "bytes_over_target": max(count / limit for count, limit in zip(num_bytes, allowed, strict=True)),
        "others_throughput": min(shares.values()),
        "failed_moves": found.num_failed,
    }
    grid_settings = {
        "prompts": " ".join(map(str, grid.prompts)),
        "batches": " ".join(map(str, grid.batches)),
        "turn": ", ".join(grid.turn),
        "turns": grid.num_turns,
        "max_tokens": _MAX_TOKENS,
    }
    return Report(settings={**grid_settings, **settings}, rows=rows, figures=figures)
