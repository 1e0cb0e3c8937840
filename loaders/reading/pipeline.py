"""Fill a content's chunks from its files: threads that read, threads that compare digests, and a sink for the chunks.

No barrier between the stages: a chunk goes on to the device as soon as it is read and checked, while others are read.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import groupby
from queue import SimpleQueue
from typing import Protocol

from cuda_kernels.digest import chunk_digest
from loaders.errors import CheckpointCorruptError, LoadCanceledError
from loaders.format.geometry import CHUNK_BYTES
from loaders.reading.chunk_memory import ChunkMemory
from loaders.reading.plan import LoadPlan
from loaders.reading.readers import Reader, open_reader

#: Enough for the disk never to wait for the next request: 2.5 GB/s of it took half as many, with chunks of 16 MiB.
DEFAULT_THREADS = 8
#: Side by side in the file, these are one read, 30 ms of the disk's time at 2 GB/s. The readers need the interpreter
#: less often, while the model is built: the disk then waited 0.01 s in place of 0.19 s, over a load of 2.6 GB.
_CHUNKS_PER_READ = 4
#: Each digests as fast as it reads memory. They are not the readers: those were done with a chunk all at the same time,
#: and the disk waited while they shared the cores (ADR 41; how much that costs is not settled).
_MAX_CHECKERS = 4
#: How long one thread without anything to do sleeps: short against the 6 ms that a chunk takes at 2.5 GB/s.
_IDLE_S = 0.001
#: How long the passing on of chunks waits for the next one before it looks after what it has passed on.
_LOOK_S = 0.002
_PROGRESS_S = 0.1
#: Added to the nice value of these threads, so that jobs which decode on this CPU go first.
_NICENESS = 5


class Cancel(Protocol):
    """Anything like a threading.Event."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


class Turn(Protocol):
    """Says whether this load may use the disk now, or another one goes first."""

    def may_read(self) -> bool:
        """Whether it may begin to read a chunk."""
        ...

    def update(self, remaining_bytes: int) -> None:
        """Tell how much nobody has begun to read."""
        ...


class AnyTime:
    """The turn of a load that nobody has to wait for."""

    def may_read(self) -> bool:
        """Always."""
        return True

    def update(self, remaining_bytes: int) -> None:
        """Nobody else is told."""


def alone() -> AbstractContextManager[Turn]:
    """Queue with nobody: what is read is for this load alone."""
    return nullcontext(AnyTime())


class Sink(Protocol):
    """Takes chunks in any order, each once, from one thread."""

    def accept(self, index: int, memory: memoryview) -> None:
        """Take a chunk that is filled and stays so for as long as the content is held."""
        ...

    def poll(self) -> None:
        """Look after what was accepted; called every few milliseconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a load is."""

    done_bytes: int
    total_bytes: int
    #: Since the load began.
    seconds: float
    #: Of those, bytes that this load read itself; the others were there, or somebody else read them.
    read_bytes: int

    @property
    def bytes_per_s(self) -> float:
        """Mean rate so far."""
        return self.done_bytes / self.seconds if self.seconds else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Expected time to the end, None while nothing is known."""
        return (self.total_bytes - self.done_bytes) / self.bytes_per_s if self.done_bytes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How chunks are read; the defaults are the product's, the other values are there to be measured."""

    num_threads: int = DEFAULT_THREADS
    #: The most that a thread asks the disk for at once.
    chunks_per_read: int = _CHUNKS_PER_READ
    direct: bool = True
    verify: bool = True
    #: Map files that the page cache holds, where nobody may write to them.
    page_cache: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadControl:
    """How a load is watched, stopped and kept in order with others."""

    #: Called some times a second by the thread that loads.
    on_progress: Callable[[Progress], None] | None = None
    cancel: Cancel | None = None
    #: Takes a place among those who use the same disk; called when there is something to be read from it.
    join_queue: Callable[[], AbstractContextManager[Turn]] = alone


def _step_back() -> None:
    """Make this thread nicer than its process is."""
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS))


def _nothing() -> None:
    """There is nothing else to do."""


class Pipeline:
    """One load: `run` returns when every chunk is filled and has been accepted by the sink."""

    def __init__(
        self,
        plan: LoadPlan,
        memory: ChunkMemory,
        sink: Sink,
        *,
        options: ReadOptions | None = None,
        control: LoadControl | None = None,
    ) -> None:
        self._plan = plan
        self._memory = memory
        self._sink = sink
        self._options = options or ReadOptions()
        control = control or LoadControl()
        self._join_queue = control.join_queue
        self._on_progress = control.on_progress
        self._cancel = control.cancel or threading.Event()
        self._stopping = threading.Event()
        self._errors: list[BaseException] = []
        self._read_bytes = 0
        self._unread_bytes = plan.num_bytes
        self._lock = threading.Lock()
        self._idling = threading.Lock()
        self._turn: Turn = AnyTime()
        self._readers: list[Reader] = []
        # Chunks that are read, and whose digest nobody has compared yet; None behind the last one.
        self._unchecked: SimpleQueue[int | None] = SimpleQueue()

    def run(self, meanwhile: Callable[[], None] = _nothing) -> Progress:
        """Load, and return how it went; `meanwhile` is called once in this thread, while the first chunks are read.

        Raises:
            LoadCanceledError: `cancel` was set.
            CheckpointCorruptError: A chunk's digest is wrong, a file is too short, or was changed meanwhile.
            StorageError: A device failed.
            Exception: Whatever `meanwhile` raises.

        """
        started_s = time.monotonic()
        with ExitStack() as resources:
            if not self._memory.is_complete:
                self._begin(resources)
            meanwhile()
            progress = self._pass_on(started_s)
        self._raise_first_error()
        self._check_files()
        return progress

    def _begin(self, resources: ExitStack) -> None:
        """Let threads read what is missing."""
        self._readers = [
            resources.enter_context(open_reader(file, direct=self._options.direct)) for file in self._plan.files
        ]
        self._turn = resources.enter_context(self._join_queue())
        resources.enter_context(self._running(self._check_chunks, self._num_checkers(), self._end_checks))
        resources.enter_context(self._running(self._read_chunks, self._num_readers(), self._stopping.set))

    def _num_readers(self) -> int:
        return min(self._options.num_threads, len(self._plan.chunks))

    def _num_checkers(self) -> int:
        if not self._options.verify or all(chunk.digest is None for chunk in self._plan.chunks):
            return 0
        return min(_MAX_CHECKERS, len(os.sched_getaffinity(0)))

    @contextmanager
    def _running(self, work: Callable[[], None], num_threads: int, end: Callable[[], None]) -> Iterator[None]:
        """Have some threads do the same; `end` tells them that it is over, and they are waited for."""
        threads: list[threading.Thread] = []
        try:
            for _ in range(num_threads):
                thread = threading.Thread(target=self._run_thread, args=(work,), name=work.__name__, daemon=True)
                thread.start()
                threads.append(thread)
            yield
        finally:
            end()
            for thread in threads:
                thread.join()

    def _run_thread(self, work: Callable[[], None]) -> None:
        """Go behind those who decode, and tell `run` what went wrong; the edge of a thread."""
        try:
            _step_back()
            work()
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            self._errors.append(error)
            self._stopping.set()

    def _end_checks(self) -> None:
        """What has been read by now is still checked, for whoever wants it next."""
        self._unchecked.put(None)

    def _pass_on(self, started_s: float) -> Progress:
        """Give the sink every chunk as it comes, in the calling thread."""
        accepted: set[int] = set()
        done_bytes, told_s = 0, started_s
        while len(accepted) < len(self._plan.chunks) and not self._errors:
            if self._cancel.is_set():
                raise LoadCanceledError("the load was canceled")
            fresh = self._memory.wait(_LOOK_S) - accepted
            for index in sorted(fresh):
                self._sink.accept(index, self._memory.chunk(index))
                done_bytes += self._plan.chunks[index].num_bytes
            accepted |= fresh
            self._sink.poll()
            if time.monotonic() - told_s >= _PROGRESS_S:
                told_s = time.monotonic()
                self._tell(self._progress(done_bytes, started_s))
        progress = self._progress(done_bytes, started_s)
        self._tell(progress)
        return progress

    def _progress(self, done_bytes: int, started_s: float) -> Progress:
        return Progress(
            done_bytes=done_bytes,
            total_bytes=self._plan.num_bytes,
            seconds=time.monotonic() - started_s,
            read_bytes=self._read_bytes,
        )

    def _tell(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(progress)

    def _read_chunks(self) -> None:
        """Read what nobody else reads until everything is there."""
        while not self._stopping.is_set() and not self._memory.is_complete:
            claimed = self._memory.claim(self._limit()) if self._turn.may_read() else range(0)
            if not claimed:
                # Another load goes first, or somebody else reads the rest, and may die before it is done. The threads
                # take turns, so that a load which waits asks no more often the more of them it has.
                with self._idling:
                    self._stopping.wait(_IDLE_S)
                continue
            self._note(claimed)
            with self._giving_back(claimed):
                self._read(claimed)
            for index in claimed:
                if self._options.verify and self._plan.chunks[index].digest is not None:
                    self._unchecked.put(index)
                else:
                    self._memory.filled(index)

    def _limit(self) -> int:
        """How many chunks to claim at once: fewer towards the end, for all threads to be done together."""
        left = self._unread_bytes // CHUNK_BYTES // (2 * self._options.num_threads)
        return max(1, min(left, self._options.chunks_per_read))

    def _check_chunks(self) -> None:
        """Compare digests until there is nothing more to come."""
        while (index := self._unchecked.get()) is not None:
            with self._giving_back((index,)):
                self._check(index)
            self._memory.filled(index)
        # For the next checker.
        self._unchecked.put(None)

    @contextmanager
    def _giving_back(self, claimed: Sequence[int]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for index in claimed:
                self._memory.give_back(index)
            raise

    def _note(self, claimed: Sequence[int]) -> None:
        """Let the next load start while the last chunks of this one are on their way."""
        with self._lock:
            self._unread_bytes -= self._num_bytes(claimed)
            unread_bytes = self._unread_bytes
        self._turn.update(unread_bytes)

    def _read(self, claimed: Sequence[int]) -> None:
        """Read chunks, those of one file at once."""
        for file, indexes in groupby(claimed, key=lambda index: self._plan.chunks[index].file):
            run = list(indexes)
            memory = [self._memory.chunk(index) for index in run]
            self._readers[file].read(memory, self._plan.chunks[run[0]].offset, self._num_bytes(run))
        with self._lock:
            self._read_bytes += self._num_bytes(claimed)

    def _num_bytes(self, indexes: Sequence[int]) -> int:
        return sum(self._plan.chunks[index].num_bytes for index in indexes)

    def _check(self, index: int) -> None:
        if self._is_right(index):
            return
        # Wrong once may be a bit that flipped on the way; wrong twice is the file.
        self._read((index,))
        if self._is_right(index):
            return
        chunk = self._plan.chunks[index]
        names = self._plan.tensors_in(index)
        raise CheckpointCorruptError(
            f"{self._plan.files[chunk.file].where}: the {chunk.num_bytes} bytes at {chunk.offset} have a wrong digest; "
            f"{len(names)} tensors are there, {names[0] if names else 'none'} first"
        )

    def _is_right(self, index: int) -> bool:
        chunk = self._plan.chunks[index]
        return chunk_digest(self._memory.chunk(index)[: chunk.num_bytes]) == chunk.digest

    def _raise_first_error(self) -> None:
        if self._errors:
            if isinstance(self._errors[0], CheckpointCorruptError):
                self._memory.discard()
            raise self._errors[0]

    def _check_files(self) -> None:
        """What has no digests is right if its files are the same ones as before; the rest has shown that it is."""
        bare = {chunk.file for chunk in self._plan.chunks if chunk.digest is None}
        try:
            for index in sorted(bare):
                self._plan.files[index].check_unchanged()
        except CheckpointCorruptError:
            self._memory.discard()
            raise
