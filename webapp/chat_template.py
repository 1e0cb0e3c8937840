"""Chat templates: programs that came with a checkpoint, so they run in Jinja's sandbox and see plain data only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from webapp.errors import PromptError

#: A prompt that a template blows up beyond this many characters is refused.
_MAX_RENDERED: Final = 8 * 2**20

#: What a template raises by what it does with messages.
_OF_TEMPLATES: Final = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    RecursionError,
)

#: Special tokens that templates may name; their texts are in tokenizer_config.json.
_SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,  # whatever the template has made
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, and models have not seen that.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now(UTC).strftime(form)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's turns for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - declared so by the base class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Read on to the end tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    # The settings are those that transformers compiles templates with; authors rely on them.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """A compiled template; safe to use from many threads."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile; raises PromptError if the source is no template."""
        try:
            self._template = _environment().from_string(source)
        except (TemplateError, SyntaxError) as error:
            raise PromptError(f"the chat template of the checkpoint is broken: {error}") from error
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write a conversation as a prompt that asks for the assistant's turn; raises PromptError."""
        pieces: list[str] = []
        size = 0
        try:
            stream = self._template.generate(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
            for piece in stream:
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_RENDERED:
                    raise PromptError("the chat template makes the prompt too long")
        except _OF_TEMPLATES as error:
            raise PromptError(f"the chat template refuses these messages: {error}") from error
        return "".join(pieces)


def special_tokens(tokenizer_config: str | None) -> dict[str, str]:
    """The special tokens that a tokenizer_config.json names; entries may be texts or `{"content": text}`."""
    config = json.loads(tokenizer_config) if tokenizer_config else {}
    found = {}
    for name in _SPECIAL_TOKENS:
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found
