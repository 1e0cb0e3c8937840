"""Do what a process's first load of a kind of model does besides reading: imports, and patterns that libraries compile.

A load needs the interpreter for it while its readers do: OPT-1.3B was ready after 1.49 s, and after 1.32 when that was
done before (medians of 5 loads each; the ranges overlap).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

from loaders.architecture import read_config
from loaders.directory import CONFIG, CheckpointDirectory
from loaders.errors import LoaderError
from loaders.format.geometry import MODEL_DIRECTORY
from loaders.restore import check_tensors

#: Kinds that are rehearsed, half a second of one core each, and some 10 MB of code that stays.
_MAX_KINDS = 16


class Rehearsal:
    """Knows which kinds of models this process has rehearsed; used by one thread."""

    def __init__(self) -> None:
        self._seen: set[Path] = set()
        self._kinds: set[str] = set()

    def look(self, paths: Iterable[Path]) -> bool:
        """Rehearse the first checkpoint of a new kind, if there is one; what is wrong with it, its load will say.

        Each path is looked at once. Returns whether there was one, and there may be another.
        """
        for path in paths:
            if path not in self._seen:
                self._seen.add(path)
                if len(self._kinds) < _MAX_KINDS and self._rehearse(path):
                    return True
        return False

    def _rehearse(self, path: Path) -> bool:
        files = path / MODEL_DIRECTORY
        try:
            directory = CheckpointDirectory(files if files.is_dir() else path)
            kind = str(directory.parse_json(CONFIG, directory.require_text(CONFIG)).get("model_type"))
        except LoaderError:
            return False
        if kind in self._kinds:
            return False
        self._kinds.add(kind)
        # As far as a load goes until it finds that every tensor is missing.
        with suppress(LoaderError):
            check_tensors(read_config(directory), {}, torch.bfloat16)
        return True
