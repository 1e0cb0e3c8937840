"""Find out what a checkpoint directory holds, and whether it can be served, before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from tokenizers import Tokenizer

from loaders.architecture import (
    eos_token_ids,
    max_context,
    model_class,
    num_layers,
    read_config,
    text_config,
)
from loaders.decodable import check_decodable
from loaders.directory import (
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    CheckpointDirectory,
)
from loaders.errors import CheckpointCorruptError, CheckpointMissingError, TokenizerMissingError
from loaders.kv_size import kv_bytes_per_token
from loaders.reading.plan import StoredTensor
from loaders.restore import check_tensors
from loaders.source import Source, open_source
from loaders.tensors import dominant_dtype, weights_bytes

_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFiles:
    """Text of the files that turn requests into token ids and back; None for those that a checkpoint lacks."""

    config: str
    tokenizer: str
    generation_config: str | None = None
    tokenizer_config: str | None = None
    chat_template: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSummary:
    """What deployment and scheduling need to know about a checkpoint."""

    architecture: str
    #: The type that most weights are stored in, in torch's spelling without `torch.`.
    dtype: str
    num_parameters: int
    weights_bytes: int
    #: In all layers together.
    kv_bytes_per_token: int
    num_layers: int
    max_context: int
    vocab_size: int
    #: Sorted.
    eos_token_ids: tuple[int, ...]
    files: ExecutionFiles


def inspect(path: Path) -> CheckpointSummary:
    """Describe a checkpoint; raises LoaderError, saying what is wrong with it, when it cannot be served."""
    with open_source(Path(path)) as source:
        return inspect_source(source, str(path))


def inspect_source(source: Source, where: str) -> CheckpointSummary:
    """Describe an open checkpoint, wherever its weights are; raises LoaderError."""
    if source.directory is None:
        raise CheckpointMissingError(f"{where}: no {CONFIG}; these are tensors without a model")
    return _summarise(source.directory, source.plan.tensors)


def _summarise(directory: CheckpointDirectory, tensors: Mapping[str, StoredTensor]) -> CheckpointSummary:
    config = read_config(directory)
    architecture = model_class(config).__name__
    files = _read_files(directory)
    dtype = dominant_dtype(tensors)
    model = check_tensors(config, tensors, dtype)
    check_decodable(model)
    return CheckpointSummary(
        architecture=architecture,
        dtype=str(dtype).removeprefix("torch."),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights_bytes=weights_bytes(tensors),
        kv_bytes_per_token=kv_bytes_per_token(model, config, dtype),
        num_layers=num_layers(config),
        max_context=max_context(config),
        vocab_size=text_config(config).vocab_size,
        eos_token_ids=tuple(sorted(eos_token_ids(directory, config))),
        files=files,
    )


def _read_files(directory: CheckpointDirectory) -> ExecutionFiles:
    tokenizer = directory.read_text(TOKENIZER)
    if tokenizer is None:
        raise TokenizerMissingError(f"{directory.path / TOKENIZER}: no such file; a fast tokenizer is needed")
    try:
        Tokenizer.from_str(tokenizer)
    except Exception as error:  # `tokenizers` raises the bare class for everything
        raise TokenizerMissingError(f"{directory.path / TOKENIZER}: not a tokenizer: {error}") from error
    tokenizer_config = directory.read_text(TOKENIZER_CONFIG)
    files = ExecutionFiles(
        config=directory.require_text(CONFIG),
        tokenizer=tokenizer,
        generation_config=directory.read_text(GENERATION_CONFIG),
        tokenizer_config=tokenizer_config,
        chat_template=_chat_template(directory, tokenizer_config),
    )
    for field in fields(files):
        _check_text(f"{directory.path}: {field.name}", getattr(files, field.name))
    return files


def _check_text(where: str, text: str | None) -> None:
    """Refuse what is no text to databases: U+0000, and halves of characters that escapes of JSON can stand for."""
    bad = None if text is None else _NO_TEXT.search(text)
    if bad is not None:
        raise CheckpointCorruptError(f"{where}: U+{ord(bad[0]):04X} at character {bad.start()}, expected text")


def _chat_template(directory: CheckpointDirectory, tokenizer_config: str | None) -> str | None:
    """Take the template from its own file, else from tokenizer_config.json; of several named ones the default."""
    own = directory.read_text(CHAT_TEMPLATE)
    if own is not None or tokenizer_config is None:
        return own
    template = directory.parse_json(TOKENIZER_CONFIG, tokenizer_config).get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise CheckpointCorruptError(f"{directory.path / TOKENIZER_CONFIG}: `chat_template` is not text")
    return template
