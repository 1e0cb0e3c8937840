"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx2

from sllm_tasks.client import calls
from sllm_tasks.client.answers import Answer, Lost
from sllm_tasks.client.calls import Call, JobSettings
from sllm_tasks.client.connection import LIMITS, find_connection
from sllm_tasks.client.encoding import encode_body
from sllm_tasks.client.flows import Flow, sending, waiting_for_job, waiting_for_operation
from sllm_tasks.client.following import CONNECT_TIMEOUT_S, MAX_EVENT_BYTES, READ_TIMEOUT_S, StreamPosition
from sllm_tasks.client.records import JobRecord, JobResult, Json, OperationRecord, StreamItem
from sllm_tasks.jobs import JobStatus

_Result = TypeVar("_Result")


class Job:
    """A job of a client: its id, and its record as it was last read."""

    def __init__(self, client: Client, record: JobRecord) -> None:
        self._client = client
        self.record = record

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def status(self) -> JobStatus:
        """Its status when it was last read."""
        return self.record.status

    def refresh(self) -> JobRecord:
        """Read it again."""
        self.record = self._client.run(calls.get_job(self.id))
        return self.record

    def result(self, timeout: float | None = None) -> JobResult:
        """Wait for its end, at most `timeout` seconds.

        Raises:
            JobTimeoutError: It has not ended; it goes on.
            JobFailedError: It ended without a result; JobCanceledError if it was stopped.

        """
        return self._client.follow(waiting_for_job(self.id, timeout, self._client.max_retries))

    def stream(self, on_wait: Callable[[str], object] | None = None) -> Iterator[StreamItem]:
        """Yield its tokens as they come, over lost connections and restarts of the server.

        A Snapshot among them replaces all text before it. Ends when the job has; `result` tells how. `on_wait` hears
        why it waits, each time that changes.
        """
        return self._client.stream(self.id, on_wait)

    def cancel(self) -> JobRecord:
        """Stop it; harmless when it has ended."""
        self.record = self._client.run(calls.cancel_job(self.id))
        return self.record

    def retry(self) -> Job:
        """Submit it once more, after it ended without success."""
        return Job(self._client, self._client.run(calls.retry_job(self.id)))

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.status}>"


class Client:
    """Talks to one server; safe to use from many threads.

    What is not given comes from SLLM_URL and SLLM_API_KEY, then from the file that `sllm up` leaves in its state
    folder. `timeout` is for one answer, in seconds; `max_retries` for answers that say to come back, and for none.
    """

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, timeout: float = 30.0, max_retries: int = 3
    ) -> None:
        connection = find_connection(url, api_key)
        self.url = connection.url
        self.max_retries = max_retries
        self._timeout_s = timeout
        self._http = httpx2.Client(base_url=connection.url, headers=connection.headers, limits=LIMITS)

    def submit(
        self,
        *,
        model: str,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, str]] | None = None,
        idempotency_key: str | None = None,
        **settings: Unpack[JobSettings],
    ) -> Job:
        """Submit a job with a prompt or with messages."""
        call = calls.submit_job(model, prompt, messages, idempotency_key, settings)
        return Job(self, self.run(call))

    def get_job(self, job_id: str) -> Job:
        """Find a job by its id."""
        return Job(self, self.run(calls.get_job(job_id)))

    def jobs(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        created_after: str | None = None,
        page_size: int = 50,
    ) -> Iterator[Job]:
        """Iterate over all jobs, newest first, reading pages as they are needed."""
        after: str | None = None
        while True:
            page = self.run(
                calls.list_jobs(status=status, model=model, created_after=created_after, limit=page_size, after=after)
            )
            yield from (Job(self, record) for record in page.jobs)
            if (after := page.next_after) is None:
                return

    def deploy(self, name: str, source: str, **settings: Any) -> OperationRecord:
        """Start to deploy a model; `settings` are those of the REST API."""
        return self.run(calls.put_model(name, {"source": source, **settings}))

    def delete_model(self, name: str) -> OperationRecord:
        """Start to delete a model."""
        return self.run(calls.delete_model(name))

    def wait_for(self, operation: OperationRecord, timeout: float | None = None) -> OperationRecord:
        """Wait for administrative work; raises OperationFailedError or OperationTimeoutError."""
        return self.follow(waiting_for_operation(operation.id, timeout, self.max_retries))

    def models(self) -> tuple[Json, ...]:
        """List all models."""
        return self.run(calls.get_list("models"))

    def nodes(self) -> tuple[Json, ...]:
        """List all nodes with their gpus."""
        return self.run(calls.get_list("nodes"))

    def run(self, call: Call[_Result]) -> _Result:
        """Make one call, trying again where that helps; raises ApiError or ServerUnavailableError."""
        return self.follow(sending(call, self.max_retries))

    def follow(self, flow: Flow[_Result]) -> _Result:
        """Do what a flow says."""
        try:
            attempt = next(flow)
            while True:
                time.sleep(attempt.after_s)
                attempt = flow.send(self._send(attempt.call, attempt.patience_s))
        except StopIteration as end:
            result: _Result = end.value
            return result

    def stream(self, job_id: str, on_wait: Callable[[str], object] | None = None) -> Iterator[StreamItem]:
        """Yield the tokens of a job by its id; see `Job.stream`."""
        position, path = StreamPosition(on_wait), calls.events_path(job_id)
        while not position.has_ended():
            answer: Answer | Lost = Lost("the stream ended early")
            try:
                with self._http.stream("GET", path, headers=position.headers, timeout=READ_TIMEOUT_S) as response:
                    if response.status_code == httpx2.codes.NO_CONTENT:
                        return
                    if response.status_code == httpx2.codes.OK:
                        position.note_open()
                        for event in httpx2.EventSource(response, MAX_EVENT_BYTES):
                            if (item := position.take(event)) is not None:
                                yield item
                            if position.has_ended():
                                return
                    else:
                        answer = Answer(response.status_code, response.headers, response.read())
            except httpx2.TransportError as error:
                answer = Lost(f"{self.url} does not answer: {error}")
            time.sleep(position.pause_s(answer))

    def close(self) -> None:
        """Close the connections; idempotent."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, call: Call[Any], patience_s: float) -> Answer | Lost:
        try:
            response = self._http.request(
                call.method,
                call.path,
                params=dict(call.params),
                content=None if call.json is None else encode_body(call.json),
                headers=call.all_headers,
                timeout=httpx2.Timeout(
                    min(self._timeout_s + call.wait_s, patience_s), connect=min(CONNECT_TIMEOUT_S, patience_s)
                ),
            )
        except httpx2.TransportError as error:
            return Lost(f"{self.url} does not answer: {error}")
        return Answer(response.status_code, response.headers, response.content)
