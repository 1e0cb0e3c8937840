"""Forms of answers below `/v1`, for the description of the API."""

from __future__ import annotations

from typing import Any, Literal

from webapp.openapi.answers import Answer

# Any: the metadata and messages are as OpenAI describes them.
_Json = dict[str, Any]


class OpenAiErrorBody(Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAiError(Answer):
    """An error in OpenAI's form."""

    error: OpenAiErrorBody


class OpenAiModel(Answer):
    """A model that takes requests."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAiModels(Answer):
    """All of them."""

    object: Literal["list"]
    data: list[OpenAiModel]


class CompletionUsage(Answer):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(Answer):
    """An answer's message."""

    role: Literal["assistant"]
    content: str
    refusal: str | None


class ChatChoice(Answer):
    """One answer of several."""

    index: int
    message: ChatMessage
    logprobs: _Json | None
    finish_reason: str


class ChatCompletion(Answer):
    """A conversation's continuation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage


class TextChoice(Answer):
    """One continuation of several."""

    index: int
    text: str
    logprobs: _Json | None
    finish_reason: str


class TextCompletion(Answer):
    """A prompt's continuation."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage


class File(Answer):
    """A file of requests, or of answers to them."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]


class DeletedFile(Answer):
    """That a file is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


class RequestCounts(Answer):
    """How far a batch is."""

    total: int
    completed: int
    failed: int


class Batch(Answer):
    """A file of requests that is worked off."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: _Json | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int | None
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
