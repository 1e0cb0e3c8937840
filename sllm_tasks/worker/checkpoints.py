"""Where a worker gets a checkpoint from: its node's SSD, or the nodes that have it, straight into memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from loaders.rehearsal import Rehearsal
from loaders.remote.source import RemoteSource
from loaders.templates import Template, Templates
from sllm_tasks.engines.known_shapes import rehearse_shapes
from sllm_tasks.engines.loading import loader_errors
from sllm_tasks.errors import ErrorCode, ModelUnusableError, StaleError
from sllm_tasks.peers.source import open_from_peers
from sllm_tasks.tokenization import Tokenizers

logger = logging.getLogger(__name__)

#: Different tokenizers that a worker keeps.
_MAX_TOKENIZERS = 8
#: What a load ends with whose copy was removed meanwhile: here, here but for what was open already, on another node.
_MAYBE_GONE = frozenset({ErrorCode.CHECKPOINT_MISSING, ErrorCode.TOKENIZER_MISSING, ErrorCode.UNAVAILABLE})
#: A node's report says within a second that a copy is gone, or is not believed any more (HEARTBEAT_LIFE_MS).
_REPORTED_IN_S = 8.0
_LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCheckpoint:
    """A checkpoint that can be loaded for as long as it is open."""

    #: Everything but the weights is there.
    path: Path
    #: Models of this worker that are built but for their weights.
    templates: Templates
    #: Where the weights are; None: there as well.
    remote: RemoteSource | None = None


class Checkpoints:
    """Finds the checkpoints of replicas."""

    def __init__(
        self, node: str, folder: Path, secret: str, find_copies: Callable[[str], Mapping[str, str | None]], device: str
    ) -> None:
        """`find_copies` tells which nodes report a checkpoint, this one too, and where agents are that serve it.

        It may raise UnavailableError, and so may `open` then. `device` is where most replicas of this worker are.
        """
        self._node = node
        self._device = torch.device(device)
        self._folder = folder
        self._secret = secret
        self._find_copies = find_copies
        self._templates = Templates()
        self._rehearsal = Rehearsal(self._templates, self._run_without_weights)
        self._tokenizers = Tokenizers(_MAX_TOKENIZERS)
        # Whose tokenizers were parsed before anybody asked.
        self._parsed: set[Path] = set()

    def rehearse(self) -> bool:
        """Do beforehand what the first load of a checkpoint would do besides reading, if the SSD has a new one."""
        if not self._folder.is_dir():
            return False
        paths = sorted(self._folder.iterdir())
        return self._rehearsal.look(paths) or self._parse_tokenizer(paths)

    def _run_without_weights(self, template: Template) -> None:
        try:
            rehearse_shapes(template.without_memory(), self._device)
        except Exception:  # whatever the code of models raises; the first load runs this one with its weights
            logger.debug("a kind of model does not run without its weights", exc_info=True)

    def _parse_tokenizer(self, paths: Sequence[Path]) -> bool:
        """Parse the tokenizer of the first one that is new; what is wrong with it, its load will say."""
        new = next((path for path in paths if path not in self._parsed), None) if self._tokenizers.has_room else None
        if new is None:
            return False
        self._parsed.add(new)
        with suppress(ModelUnusableError):
            self.tokenizer(new)
        return True

    def tokenizer(self, path: Path) -> Tokenizer:
        """The tokenizer of an open checkpoint, by its path; raises ModelUnusableError. It must not be changed."""
        try:
            return self._tokenizers.parse((path / "model" / "tokenizer.json").read_bytes())
        except OSError as error:
            raise ModelUnusableError(ErrorCode.TOKENIZER_MISSING, f"the tokenizer cannot be read: {error}") from error

    @contextmanager
    def open(self, digest: str, cancel: threading.Event) -> Iterator[OpenedCheckpoint]:
        """Open a checkpoint by its digest.

        Raises ModelUnusableError, and StaleError when it may be found elsewhere: those who have it do not answer, or a
        copy is gone that was still reported. Then it waits for the report, unless nobody wants the load any more.
        """
        path = self._folder / digest
        is_here = path.is_dir()
        try:
            opened = OpenedCheckpoint(path=path, templates=self._templates)
            with nullcontext(opened) if is_here else self._from_others(digest) as opened:
                yield opened
        except ModelUnusableError as error:
            if error.code in _MAYBE_GONE and self._was_reported_wrongly(digest, cancel, is_here=is_here):
                message = f"a copy of checkpoint {digest} was gone before its node's report said so: {error}"
                raise StaleError(message) from error
            raise

    @contextmanager
    def _from_others(self, digest: str) -> Iterator[OpenedCheckpoint]:
        if not self._agents_with(digest):
            message = f"checkpoint {digest} is neither on this node nor on another one that lives"
            raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, message)
        with loader_errors(), open_from_peers(digest, self._secret, lambda: self._agents_with(digest)) as remote:
            yield OpenedCheckpoint(path=remote.path, templates=self._templates, remote=remote)

    def _agents_with(self, digest: str) -> list[str]:
        """Where the agents of other nodes are that have a checkpoint."""
        return _agents(self._find_copies(digest), but=self._node)

    def _was_reported_wrongly(self, digest: str, cancel: threading.Event, *, is_here: bool) -> bool:
        """Wait until nodes report other copies than now: sooner, the router would send the job here again.

        False if they stay with it: then what they have is damaged.
        """
        reported = self._find_copies(digest)
        if self._node not in reported and (is_here or not _agents(reported, but=self._node)):
            return True
        deadline_s = time.monotonic() + _REPORTED_IN_S
        while time.monotonic() < deadline_s:
            if cancel.wait(_LOOK_AGAIN_S) or self._find_copies(digest) != reported:
                return True
        return False


def _agents(copies: Mapping[str, str | None], *, but: str) -> list[str]:
    return [url for node, url in copies.items() if node != but and url is not None]
