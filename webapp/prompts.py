"""From what a user sends to token ids, with the tokenizer and the chat template that came with the checkpoint."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Final

from tokenizers import Tokenizer

from sllm_tasks.errors import ModelUnusableError
from sllm_tasks.ledger import inventory
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.tables import CheckpointRow
from sllm_tasks.tokenization import Tokenizers
from webapp.catalog import ServedModel
from webapp.chat_template import ChatTemplate, special_tokens
from webapp.errors import ContextLengthError, PromptError, TokenizerMissingError
from webapp.schemas.jobs import JobInput

#: Checkpoints whose chat templates and tokenizers are kept; many of them share a tokenizer.
_MAX_KEPT: Final = 64
#: Tokenizers that are kept besides those of such checkpoints.
_MAX_TOKENIZERS: Final = 16
#: From this length on a prompt is first compared with the longest that could fit, because tokenising takes time.
_LONG_PROMPT: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class PromptFiles:
    """What one checkpoint needs to turn text into token ids."""

    tokenizer: Tokenizer
    #: Characters of its longest token.
    longest_token: int
    chat_template: ChatTemplate | None
    #: Why there is none, where the checkpoint came with one.
    template_error: str = ""
    #: Tokens that the model has, None if its config does not say; a tokenizer may know more of them.
    vocab_size: int | None = None

    def encode(self, job_input: JobInput, context: int) -> tuple[int, ...]:
        """Token ids of a prompt or a conversation.

        Raises:
            PromptError: The model has no chat template, the template refuses the messages, nothing is left, or a token
                is none of the model's.
            ContextLengthError: The text is so long that it cannot fit, whatever its tokens are.

        """
        if job_input.prompt_ids is not None:
            if max(job_input.prompt_ids) >= self.tokenizer.get_vocab_size():
                raise PromptError(f"this model has {self.tokenizer.get_vocab_size()} tokens, and a token id is beyond")
            return self._known(job_input.prompt_ids)
        if job_input.messages is None:
            text = job_input.prompt or ""
        elif self.chat_template is None:
            raise PromptError(self.template_error or "this model has no chat template; send a prompt")
        else:
            text = self.chat_template.render([message.model_dump() for message in job_input.messages])
        if len(text) > max(_LONG_PROMPT, context * self.longest_token):
            raise ContextLengthError(f"a prompt of {len(text)} characters does not fit into {context} tokens")
        # A template writes the special tokens itself.
        ids = self.tokenizer.encode(text, add_special_tokens=job_input.messages is None).ids
        if not ids:
            raise PromptError("the prompt has no token")
        return self._known(tuple(ids))

    def _known(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        highest = max(ids)
        if self.vocab_size is not None and highest >= self.vocab_size:
            name = self.tokenizer.id_to_token(highest)
            raise PromptError(
                f"this model has {self.vocab_size} tokens, and {name!r}, which its tokenizer knows, is not one of them"
            )
        return ids


class PromptBuilder:
    """Keeps the tokenizers of the checkpoints in use; safe to use from many threads."""

    def __init__(self, ledger: Database) -> None:
        self._ledger = ledger
        # Guards the table; held while a tokenizer is parsed, so that two requests do not parse it twice.
        self._lock = threading.Lock()
        self._files: dict[str, PromptFiles] = {}
        self._tokenizers = Tokenizers(_MAX_TOKENIZERS)

    def prompt_ids(self, model: ServedModel, job_input: JobInput) -> tuple[int, ...]:
        """Token ids of what a user sent; raises PromptError, ContextLengthError or TokenizerMissingError."""
        return self._of(model.checkpoint).encode(job_input, model.context)

    def tokenizer(self, checkpoint: str) -> Tokenizer:
        """The tokenizer of a checkpoint; raises TokenizerMissingError."""
        return self._of(checkpoint).tokenizer

    def _of(self, digest: str) -> PromptFiles:
        files = self._files.get(digest)
        if files is not None:
            return files
        with self._lock:
            if digest not in self._files:
                with self._ledger.reading() as session:
                    row = inventory.get_checkpoint(session, digest)
                if len(self._files) >= _MAX_KEPT:
                    del self._files[next(iter(self._files))]
                self._files[digest] = self._parse(row)
            return self._files[digest]

    def _parse(self, row: CheckpointRow) -> PromptFiles:
        if row.tokenizer is None:
            raise TokenizerMissingError("this model has no tokenizer")
        try:
            tokenizer = self._tokenizers.parse(row.tokenizer.encode())
        except ModelUnusableError as error:
            raise TokenizerMissingError(str(error)) from error
        template, template_error = None, ""
        if row.chat_template:
            try:
                template = ChatTemplate(row.chat_template, special_tokens(row.tokenizer_config))
            except PromptError as error:
                # Prompts need none.
                template_error = f"{error}; send a prompt"
        longest = max(map(len, tokenizer.get_vocab()))
        return PromptFiles(tokenizer, longest, template, template_error, vocab_size(row.config))


def vocab_size(config: str) -> int | None:
    """How many tokens a config.json says that its model has; None if it leaves that to the model's class."""
    said = json.loads(config)
    texts = said.get("text_config")
    # A model that reads more than text may count other things above.
    size = (texts if isinstance(texts, dict) and "vocab_size" in texts else said).get("vocab_size")
    return size if isinstance(size, int) else None
