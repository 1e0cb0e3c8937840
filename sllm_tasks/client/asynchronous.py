"""The asynchronous twin of the blocking client; what both do is in `calls`, `flows` and `following`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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


class AsyncJob:
    """A job of an asynchronous client: its id, and its record as it was last read."""

    def __init__(self, client: AsyncClient, record: JobRecord) -> None:
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

    async def refresh(self) -> JobRecord:
        """Read it again."""
        self.record = await self._client.run(calls.get_job(self.id))
        return self.record

    async def result(self, timeout: float | None = None) -> JobResult:
        """Wait for its end, at most `timeout` seconds.

        Raises:
            JobTimeoutError: It has not ended; it goes on.
            JobFailedError: It ended without a result; JobCanceledError if it was stopped.

        """
        return await self._client.follow(waiting_for_job(self.id, timeout, self._client.max_retries))

    def stream(self, on_wait: Callable[[str], object] | None = None) -> AsyncIterator[StreamItem]:
        """Yield its tokens as they come, over lost connections and restarts of the server.

        A Snapshot among them replaces all text before it. Ends when the job has; `result` tells how. `on_wait` hears
        why it waits, each time that changes.
        """
        return self._client.stream(self.id, on_wait)

    async def cancel(self) -> JobRecord:
        """Stop it; harmless when it has ended."""
        self.record = await self._client.run(calls.cancel_job(self.id))
        return self.record

    async def retry(self) -> AsyncJob:
        """Submit it once more, after it ended without success."""
        return AsyncJob(self._client, await self._client.run(calls.retry_job(self.id)))

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id} {self.status}>"


class AsyncClient:
    """Talks to one server; belongs to one event loop.

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
        self._http = httpx2.AsyncClient(base_url=connection.url, headers=connection.headers, limits=LIMITS)

    async def submit(
        self,
        *,
        model: str,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, str]] | None = None,
        idempotency_key: str | None = None,
        **settings: Unpack[JobSettings],
    ) -> AsyncJob:
        """Submit a job with a prompt or with messages."""
        call = calls.submit_job(model, prompt, messages, idempotency_key, settings)
        return AsyncJob(self, await self.run(call))

    async def get_job(self, job_id: str) -> AsyncJob:
        """Find a job by its id."""
        return AsyncJob(self, await self.run(calls.get_job(job_id)))

    async def jobs(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        created_after: str | None = None,
        page_size: int = 50,
    ) -> AsyncIterator[AsyncJob]:
        """Iterate over all jobs, newest first, reading pages as they are needed."""
        after: str | None = None
        while True:
            page = await self.run(
                calls.list_jobs(status=status, model=model, created_after=created_after, limit=page_size, after=after)
            )
            for record in page.jobs:
                yield AsyncJob(self, record)
            if (after := page.next_after) is None:
                return

    async def deploy(self, name: str, source: str, **settings: Any) -> OperationRecord:
        """Start to deploy a model; `settings` are those of the REST API."""
        return await self.run(calls.put_model(name, {"source": source, **settings}))

    async def delete_model(self, name: str) -> OperationRecord:
        """Start to delete a model."""
        return await self.run(calls.delete_model(name))

    async def wait_for(self, operation: OperationRecord, timeout: float | None = None) -> OperationRecord:
        """Wait for administrative work; raises OperationFailedError or OperationTimeoutError."""
        return await self.follow(waiting_for_operation(operation.id, timeout, self.max_retries))

    async def models(self) -> tuple[Json, ...]:
        """List all models."""
        return await self.run(calls.get_list("models"))

    async def nodes(self) -> tuple[Json, ...]:
        """List all nodes with their gpus."""
        return await self.run(calls.get_list("nodes"))

    async def run(self, call: Call[_Result]) -> _Result:
        """Make one call, trying again where that helps; raises ApiError or ServerUnavailableError."""
        return await self.follow(sending(call, self.max_retries))

    async def follow(self, flow: Flow[_Result]) -> _Result:
        """Do what a flow says."""
        try:
            attempt = next(flow)
            while True:
                await asyncio.sleep(attempt.after_s)
                attempt = flow.send(await self._send(attempt.call, attempt.patience_s))
        except StopIteration as end:
            result: _Result = end.value
            return result

    async def stream(self, job_id: str, on_wait: Callable[[str], object] | None = None) -> AsyncIterator[StreamItem]:
        """Yield the tokens of a job by its id; see `AsyncJob.stream`."""
        position, path = StreamPosition(on_wait), calls.events_path(job_id)
        while not position.has_ended():
            answer: Answer | Lost = Lost("the stream ended early")
            try:
                async with self._http.stream("GET", path, headers=position.headers, timeout=READ_TIMEOUT_S) as response:
                    if response.status_code == httpx2.codes.NO_CONTENT:
                        return
                    if response.status_code == httpx2.codes.OK:
                        position.note_open()
                        async for event in httpx2.EventSource(response, MAX_EVENT_BYTES):
                            if (item := position.take(event)) is not None:
                                yield item
                            if position.has_ended():
                                return
                    else:
                        answer = Answer(response.status_code, response.headers, await response.aread())
            except httpx2.TransportError as error:
                answer = Lost(f"{self.url} does not answer: {error}")
            await asyncio.sleep(position.pause_s(answer))

    async def close(self) -> None:
        """Close the connections; idempotent."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, call: Call[Any], patience_s: float) -> Answer | Lost:
        try:
            response = await self._http.request(
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
