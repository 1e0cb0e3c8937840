"""Bodies and queries of `/api/v1/jobs`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from sllm_tasks.jobs import Exactness, JobStatus
from sllm_tasks.ledger.states import DeliveryStatus
from sllm_tasks.limits import MAX_LIFE_S, MAX_PRIORITY, MAX_SEED, MAX_TEMPERATURE, MAX_TOKENS, MAX_TOP_K
from webapp.schemas.fields import Body, DeliveryCursor, JobCursor, ModelName, OperationCursor, ShortText, Text
from webapp.schemas.webhooks import JobWebhook

#: What every written instant begins with.
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_Label = Annotated[Text, StringConstraints(min_length=1, max_length=64)]
_TokenId = Annotated[int, Field(ge=0, lt=2**32)]
_LabelValue = Annotated[Text, StringConstraints(max_length=512)]


class ChatMessage(Body):
    """One turn of a conversation; which roles exist is up to the model's chat template."""

    role: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")]
    content: Text


class JobInput(Body):
    """A prompt, taken as it is; or messages for the model's chat template; or a prompt's token ids."""

    prompt: Annotated[Text, StringConstraints(min_length=1)] | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)] | None = None
    prompt_ids: Annotated[tuple[_TokenId, ...], Field(min_length=1, max_length=MAX_TOKENS)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if [self.prompt, self.messages, self.prompt_ids].count(None) != 2:
            raise ValueError("give one of prompt, messages and prompt_ids")
        return self


class JobParams(Body):
    """How tokens are drawn; what is left out comes from the model's generation settings."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_TOP_K)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    stop: Annotated[tuple[ShortText, ...], Field(max_length=16)] = ()
    stop_token_ids: Annotated[tuple[_TokenId, ...], Field(max_length=64)] = ()
    ignore_eos: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class JobRequest(Body):
    """The body of POST and PUT."""

    model: ModelName
    input: JobInput
    params: JobParams = JobParams()
    priority: Annotated[int, Field(ge=0, le=MAX_PRIORITY)] = 5
    job_class: Annotated[Literal["interactive", "batch"], Field(alias="class")] = "interactive"
    deadline_s: Annotated[float, Field(gt=0, le=MAX_LIFE_S)] | None = None
    result_ttl_s: Annotated[int, Field(ge=60, le=MAX_LIFE_S)] | None = None
    #: What is promised about retries and migrations; default: what its model was deployed with.
    exactness: Annotated[Exactness, Field(strict=False)] | None = None
    metadata: Annotated[dict[_Label, _LabelValue], Field(default_factory=dict, max_length=16)]
    webhook: JobWebhook | None = None


class Query(Body):
    """A query string: every value arrives as text, so numbers and dates are read from it."""

    model_config = ConfigDict(strict=False)


class EventsQuery(Query):
    """Where in its events a reader of a job goes on; the header `Last-Event-ID` outdoes it."""

    after: str | None = None


class PageQuery(Query):
    """Which part of a list; newest first unless `order` says otherwise."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    #: The last id of the page before; the subclasses say of what.
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


def _is_written_out(value: object) -> object:
    """Refuse numbers, which pydantic takes for seconds since 1970."""
    if isinstance(value, str) and not _DATE.match(value):
        raise ValueError("must be a date and a time with an offset, as in 2026-11-21T09:30:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    """Move an instant to UTC; the first and last days of the calendar are not to be moved everywhere."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the calendar") from None


class JobsQuery(PageQuery):
    """Filters of the list of jobs."""

    after: JobCursor | None = None
    status: JobStatus | None = None
    model: ModelName | None = None
    created_after: Annotated[AwareDatetime, BeforeValidator(_is_written_out), AfterValidator(_in_utc)] | None = None


class OperationsQuery(PageQuery):
    """Which part of the list of operations."""

    after: OperationCursor | None = None


class DeliveriesQuery(PageQuery):
    """Which part of the list of messages to a webhook."""

    after: DeliveryCursor | None = None
    status: DeliveryStatus | None = None
