"""Do what a process's first load of a kind of model does besides reading: imports, and patterns that libraries compile.

A load needs the interpreter for it while its readers do: OPT-1.3B was ready after 1.49 s, and after 1.32 when that was
done before (medians of 5 loads each; the ranges overlap).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from loaders.architecture import read_config
from loaders.directory import CONFIG, CheckpointDirectory
from loaders.errors import LoaderError
from loaders.format.geometry import MODEL_DIRECTORY
from loaders.restore import check_tensors

#: Kinds that are rehearsed, half a second of one core each, which jobs may want as well.
_MAX_KINDS = 4


def rehearse(paths: Iterable[Path]) -> None:
    """Do it for one checkpoint of each of the first kinds; what is wrong with one is said when it is loaded."""
    done: set[str] = set()
    for path in paths:
        if len(done) == _MAX_KINDS:
            return
        files = path / MODEL_DIRECTORY
        try:
            directory = CheckpointDirectory(files if files.is_dir() else path)
            kind = str(directory.parse_json(CONFIG, directory.require_text(CONFIG)).get("model_type"))
            if kind not in done:
                done.add(kind)
                # As far as a load goes until it finds that every tensor is missing.
                check_tensors(read_config(directory), {}, torch.bfloat16)
        except LoaderError:
            continue
