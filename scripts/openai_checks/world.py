"""What the checks share: clients, a model, and the list of checks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.client import Client, calls

#: Decoded greedily from random weights, so that it never ends by itself.
FOREVER: dict[str, Any] = {"ignore_eos": True}
QUESTION = "two and two"
_CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A cluster as its users see it."""

    url: str
    api_key: str
    model: str
    openai: OpenAI
    native: Client

    def another_client(self, api_key: str, **options: Any) -> OpenAI:
        """A client with another key, which never tries again by itself."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, **options)

    def asynchronous(self) -> AsyncOpenAI:
        """The asynchronous client."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0, timeout=60)

    def new_key(self, *scopes: str, tenant: str = "default") -> str:
        """Make an API key."""
        return str(self.native.run(calls.create_key("conformance", scopes, tenant))["key"])

    def chat(self, question: str = QUESTION, **fields: Any) -> ChatCompletion:
        """Ask one question, for eight tokens unless it is said otherwise."""
        wanted = {"max_tokens": 8, "extra_body": FOREVER, **fields}
        messages = [{"role": "user", "content": question}]
        answer: ChatCompletion = self.openai.chat.completions.create(
            model=self.model,
            messages=messages,  # type: ignore[arg-type] # plain dicts, as users write them
            **wanted,
        )
        return answer


Check = Callable[[World], None]
#: In the order of their definition.
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    """Add a check."""
    CHECKS.append(function)
    return function


def open_world(url: str, api_key: str, model: str) -> World:
    """Connect to a cluster; the caller closes the clients."""
    return World(
        url=url,
        api_key=api_key,
        model=model,
        openai=OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=60),
        native=Client(url, api_key),
    )


def make_chat_checkpoint(path: Path) -> Path:
    """Write a checkpoint of random weights with a chat template."""
    make_tiny(path)
    settings = path / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": _CHAT_TEMPLATE}))
    return path


def content_of(answer: ChatCompletion) -> str:
    """The text of the first choice."""
    return answer.choices[0].message.content or ""


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    """Poll until something holds."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)
