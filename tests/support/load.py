"""Jobs that a fault is to meet: submitted in numbers, some of them watched by a reader that follows their events."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2

from sllm_tasks.client import ApiError, Client, Job, ServerUnavailableError
from sllm_tasks.client.records import JobRecord
from tests.support.processes import wait_until

_CONNECT_AGAIN_S = 0.2
#: The server sends something every ten seconds.
_READ_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked for; the same question always has the same answer."""

    prompt: str
    max_tokens: int
    seed: int
    #: 0 is greedy.
    temperature: float


def questions(count: int, *, max_tokens: int = 48) -> list[Question]:
    """Make questions that differ in prompt, length and way of sampling, half of them greedy."""
    return [
        Question(
            prompt=f"question {number}: " + "why? " * (number % 7 + 1),
            max_tokens=max_tokens + number % 5,
            seed=number,
            temperature=0.0 if number % 2 else 1.5,
        )
        for number in range(count)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A server-sent event as it arrived."""

    id: str
    kind: str
    data: dict[str, Any]


class Watcher:
    """Reads a job's events in a thread of its own, over lost connections, until the job has ended."""

    def __init__(self, client: Client, job_id: str, api_key: str) -> None:
        self.job_id = job_id
        #: The thread's own until `join` has returned True.
        self.events: list[Event] = []
        self._url = f"{client.url}/api/v1/jobs/{job_id}/events"
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "text/event-stream"}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{job_id}", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the job's last event; False when it did not come in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Give up reading, by the next loss of the connection."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with httpx2.stream("GET", self._url, headers=self._resuming(), timeout=_READ_TIMEOUT_S) as response:
                    if response.status_code == httpx2.codes.NO_CONTENT or self._read(response):
                        return
            except httpx2.TransportError:
                pass
            time.sleep(_CONNECT_AGAIN_S)

    def _resuming(self) -> dict[str, str]:
        last = next((event.id for event in reversed(self.events) if event.id), "")
        return {**self._headers, "Last-Event-ID": last} if last else self._headers

    def _read(self, response: httpx2.Response) -> bool:
        if response.status_code != httpx2.codes.OK:
            return False
        for event in httpx2.EventSource(response):
            if event.data:
                self.events.append(Event(id=event.id, kind=event.event, data=json.loads(event.data)))
            if event.event == "completed":
                return True
        return False


@dataclass(slots=True)
class Load:
    """Accepted jobs with their questions, and what was seen of them."""

    client: Client
    api_key: str
    jobs: dict[str, tuple[Job, Question]] = field(default_factory=dict)
    watchers: list[Watcher] = field(default_factory=list)
    #: Jobs that have to fail as poison.
    poisoned: set[str] = field(default_factory=set)
    #: Requests that were refused: no job was accepted by them.
    num_refused: int = 0

    def submit(self, asked: Sequence[Question], *, num_watched: int = 0) -> list[Job]:
        """Submit jobs from several threads at once and watch the first few; returns those that were accepted."""
        with ThreadPoolExecutor(8) as pool:
            submitted = list(pool.map(self._submit, asked))
        accepted = [job for job in submitted if job is not None]
        self.watchers += [Watcher(self.client, job.id, self.api_key) for job in accepted[:num_watched]]
        return accepted

    def records(self) -> dict[str, JobRecord]:
        """Read every job once more."""
        return {job.id: job.refresh() for job, _ in self.jobs.values()}

    def wait_for_tokens(self, num_tokens: int, num_jobs: int = 1) -> None:
        """Wait until so many jobs decode and have so many tokens each, or have ended."""

        def are_there() -> bool:
            records = self.records().values()
            return sum(job.num_tokens >= num_tokens or job.status.is_terminal for job in records) >= num_jobs

        wait_until(are_there, f"{num_jobs} jobs have {num_tokens} tokens")

    def wait_ended(self, timeout_s: float) -> list[str]:
        """Wait for all jobs; returns the ids of those that have not ended in time."""
        deadline_s = time.monotonic() + timeout_s
        left = list(self.jobs)
        while left and time.monotonic() < deadline_s:
            left = [job_id for job_id in left if not self._has_ended(job_id)]
            time.sleep(0.1)
        return left

    def _submit(self, question: Question) -> Job | None:
        try:
            job = self.client.submit(
                model="tiny",
                prompt=question.prompt,
                max_tokens=question.max_tokens,
                seed=question.seed,
                temperature=question.temperature,
                ignore_eos=True,
            )
        except (ServerUnavailableError, ApiError):
            self.num_refused += 1
            return None
        self.jobs[job.id] = (job, question)
        return job

    def _has_ended(self, job_id: str) -> bool:
        try:
            return self.jobs[job_id][0].refresh().status.is_terminal
        except (ServerUnavailableError, ApiError):
            return False


def answers(load: Load, asked: Iterable[Question]) -> dict[Question, str]:
    """Ask without any disturbance: the text that each question has."""
    load.submit(list(asked))
    left = load.wait_ended(120)
    assert not left, f"undisturbed jobs did not end: {left}"
    return {question: load.client.get_job(job.id).record.text or "" for job, question in load.jobs.values()}
