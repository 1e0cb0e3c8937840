"""Bodies of `/v1/chat/completions` and `/v1/completions`, as the `openai` package sends them.

What is not declared here is kept apart (`model_extra`): most of it may be ignored, some must be refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from sllm_tasks.limits import MAX_LIFE_S, MAX_PRIORITY, MAX_TEMPERATURE, MAX_TOKENS, MAX_TOP_K
from webapp.schemas.fields import Body, ShortText, Text

#: Choices of one request, over all of its prompts.
MAX_CHOICES: Final = 64
_MAX_TOP_LOGPROBS: Final = 20

_Label = Annotated[Text, StringConstraints(min_length=1, max_length=64)]
_LabelValue = Annotated[Text, StringConstraints(max_length=512)]

Metadata = Annotated[dict[_Label, _LabelValue], Field(max_length=16)]


# Any: these look at values before anything is known of them.
def _listed(value: Any) -> Any:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


def _flattened(value: Any) -> Any:
    """Join the text parts of a message; other kinds of parts are refused."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return value
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        raise ValueError("must be text, or a list of parts of type text")
    texts = [part.get("text") for part in value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a part of type text must have a text")
    return "\n".join(texts)


def _prompts(value: Any) -> Any:
    """One prompt or several, each a text or a list of token ids."""
    prompts = value if isinstance(value, list) and not _is_ids(value) else [value]
    if not prompts or not all(isinstance(prompt, str) or _is_ids(prompt) for prompt in prompts):
        raise ValueError("must be a text, a list of token ids, or a list of either")
    return prompts


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


#: The range of a signed 64-bit number, which is what clients draw from.
_Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_TokenId = Annotated[int, Field(ge=0, lt=2**32)]


def _one_prompt(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Say once what both of its forms would say apart."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError("must be a text without U+0000, or a list of token ids below 2 to the 32") from None


_Prompt = Annotated[Text | list[_TokenId], WrapValidator(_one_prompt)]
#: How clients may write what is checked as lists.
_Stops = ShortText | Annotated[list[ShortText], Field(max_length=16)]
_Prompts = Text | list[_TokenId] | Annotated[list[Text | list[_TokenId]], Field(max_length=MAX_CHOICES)]


class OpenAiBody(Body):
    """Unknown fields are allowed, and told apart."""

    model_config = ConfigDict(extra="allow")


class StreamOptions(OpenAiBody):
    """What a stream has besides its text."""

    include_usage: bool = False


class TextPart(OpenAiBody):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class ChatTurn(OpenAiBody):
    """One message; its parts are joined."""

    role: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")]
    content: Annotated[Text, BeforeValidator(_flattened, json_schema_input_type=str | list[TextPart] | None)] = ""


class GenerationRequest(OpenAiBody):
    """What both kinds of request have in common; the last five are ours."""

    model: ShortText
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: _Seed | None = None
    stop: (
        Annotated[list[ShortText], Field(max_length=16), BeforeValidator(_listed, json_schema_input_type=_Stops)] | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: Metadata | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_TOP_K)] | None = None
    stop_token_ids: Annotated[list[_TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool = False
    priority: Annotated[int, Field(ge=0, le=MAX_PRIORITY)] | None = None
    deadline_s: Annotated[float, Field(gt=0, le=MAX_LIFE_S)] | None = None


class ChatCompletionRequest(GenerationRequest):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[ChatTurn], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MAX_TOP_LOGPROBS)] | None = None


class CompletionRequest(GenerationRequest):
    """The body of `/v1/completions`."""

    #: Each a text or a list of token ids.
    prompt: Annotated[
        list[_Prompt],
        Field(max_length=MAX_CHOICES),
        BeforeValidator(_prompts, json_schema_input_type=_Prompts),
    ]
    logprobs: Annotated[int, Field(ge=0, le=_MAX_TOP_LOGPROBS)] | None = None
