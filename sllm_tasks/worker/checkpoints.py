"""Where a worker gets a checkpoint from: its node's SSD, or the nodes that have it, straight into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from loaders.rehearsal import Rehearsal
from loaders.remote.source import RemoteSource
from sllm_tasks.engines.loading import loader_errors
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.peers.source import open_from_peers
from sllm_tasks.tokenization import Tokenizers

#: Different tokenizers that a worker keeps.
_MAX_TOKENIZERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCheckpoint:
    """A checkpoint that can be loaded for as long as it is open."""

    #: Everything but the weights is there.
    path: Path
    #: Where the weights are; None: there as well.
    remote: RemoteSource | None = None


class Checkpoints:
    """Finds the checkpoints of replicas."""

    def __init__(self, folder: Path, secret: str, find_urls: Callable[[str], Sequence[str]]) -> None:
        """`find_urls` tells where the agents of other nodes are that have a checkpoint."""
        self._folder = folder
        self._secret = secret
        self._find_urls = find_urls
        self._rehearsal = Rehearsal()
        self._tokenizers = Tokenizers(_MAX_TOKENIZERS)
        # Whose tokenizers were parsed before anybody asked.
        self._parsed: set[Path] = set()

    def rehearse(self) -> bool:
        """Do beforehand what the first load of a checkpoint would do besides reading, if the SSD has a new one."""
        if not self._folder.is_dir():
            return False
        paths = sorted(self._folder.iterdir())
        return self._rehearsal.look(paths) or self._parse_tokenizer(paths)

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
    def open(self, digest: str) -> Iterator[OpenedCheckpoint]:
        """Open a checkpoint by its digest.

        Raises ModelUnusableError, and StaleError when those who have it do not answer: they may be found elsewhere.
        """
        path = self._folder / digest
        if path.is_dir():
            yield OpenedCheckpoint(path=path)
            return
        find_urls = partial(self._find_urls, digest)
        if not find_urls():
            message = f"checkpoint {digest} is neither on this node nor on another one that lives"
            raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, message)
        with loader_errors(), open_from_peers(digest, self._secret, find_urls) as remote:
            yield OpenedCheckpoint(path=remote.path, remote=remote)
