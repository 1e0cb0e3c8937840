"""Forms, bodies and queries of `/v1/files` and `/v1/batches`, and the lines of a batch's file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from sllm_tasks.ids import id_pattern
from sllm_tasks.limits import MAX_LIFE_S
from webapp.schemas.fields import Body, ShortText, Text
from webapp.schemas.jobs import PageQuery, Query
from webapp.schemas.openai import Metadata, OpenAiBody

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
_FileId = Annotated[str, StringConstraints(pattern=f"^{id_pattern('file')}$")]
_BatchId = Annotated[str, StringConstraints(pattern=f"^{id_pattern('batch')}$")]


class FileForm(Query):
    """The fields of an upload besides the file; every value arrives as text."""

    purpose: Literal["batch"]
    anchor: Annotated[Literal["created_at"] | None, Field(alias="expires_after[anchor]")] = None
    life_s: Annotated[int, Field(alias="expires_after[seconds]", ge=3600, le=MAX_LIFE_S)] = MAX_LIFE_S


class FilesQuery(PageQuery):
    """Which part of the list of files."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    after: _FileId | None = None
    purpose: Literal["batch", "batch_output"] | None = None


class BatchesQuery(PageQuery):
    """Which part of the list of batches; the newest come first."""

    after: _BatchId | None = None


class BatchRequest(OpenAiBody):
    """The body of `POST /v1/batches`."""

    input_file_id: ShortText
    endpoint: Endpoint
    #: OpenAI knows `24h` only; shorter ones are ours.
    completion_window: Annotated[str, StringConstraints(pattern=r"^([1-9]|1[0-9]|2[0-4])h$|^[1-9][0-9]?[ms]$")]
    metadata: Metadata | None = None


class BatchLine(Body):
    """One line of a batch's file."""

    custom_id: Annotated[Text, StringConstraints(min_length=1, max_length=512)]
    method: Literal["POST"] = "POST"
    url: Endpoint
    #: Any: it is checked as the body of a request when its turn comes.
    body: dict[str, Any]
