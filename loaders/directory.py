"""The files of a checkpoint directory in the Hugging Face layout, read strictly and never executed."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders.errors import CheckpointCorruptError, CheckpointMissingError, LoaderError

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"

_SINGLE_SHARD = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"
#: The largest tokenizer.json in use is 33 MB (Gemma 3); anything of twice that size is not one.
_MAX_TEXT_BYTES = 64 << 20

#: What a JSON file holds: by nature of any type.
JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CheckpointDirectory:
    """A directory that exists; its files are looked up when asked for."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise CheckpointMissingError(f"{self.path}: no such directory")

    @property
    def has_config(self) -> bool:
        """Whether it belongs to a model, rather than being just tensors."""
        return (self.path / CONFIG).is_file()

    def read_text(self, name: str) -> str | None:
        """Return a file's text, None when there is no such file."""
        path = self.path / name
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise CheckpointCorruptError(f"{path}: not a regular file")
            num_bytes = found.st_size
            if num_bytes > _MAX_TEXT_BYTES:
                raise CheckpointCorruptError(f"{path}: {num_bytes} bytes, expected at most {_MAX_TEXT_BYTES}")
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise CheckpointCorruptError(f"{path}: not UTF-8 at byte {error.start}") from error
        except OSError as error:
            raise LoaderError(f"{path}: {error.strerror}") from error

    def require_text(self, name: str) -> str:
        """Return a file's text; raises CheckpointMissingError when there is no such file."""
        text = self.read_text(name)
        if text is None:
            raise CheckpointMissingError(f"{self.path / name}: no such file")
        return text

    def parse_json(self, name: str, text: str) -> JsonObject:
        """Read the object that a file's text holds."""
        try:
            value = json.loads(text, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            raise CheckpointCorruptError(f"{self.path / name}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise CheckpointCorruptError(f"{self.path / name}: a JSON {type(value).__name__}, expected an object")
        return value

    def shards(self) -> tuple[Path, ...]:
        """Name the files with the weights, sorted; all of them exist."""
        names = (_SINGLE_SHARD,) if (self.path / _SINGLE_SHARD).is_file() else self._indexed_shards()
        for name in names:
            if not (self.path / name).is_file():
                raise CheckpointMissingError(f"{self.path / name}: no such file, but {_SHARD_INDEX} names it")
        return tuple(self.path / name for name in names)

    def _indexed_shards(self) -> tuple[str, ...]:
        text = self.read_text(_SHARD_INDEX)
        if text is None:
            raise CheckpointMissingError(f"{self.path}: neither {_SINGLE_SHARD} nor {_SHARD_INDEX}")
        return tuple(sorted(set(self.shard_of_tensor(text).values())))

    def shard_of_tensor(self, text: str) -> Mapping[str, str]:
        """Read the shard index: tensor name to file name."""
        weight_map = self.parse_json(_SHARD_INDEX, text).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointCorruptError(f"{self.path / _SHARD_INDEX}: `weight_map` is not an object with entries")
        for tensor, name in weight_map.items():
            # A name is never a path: it must not lead out of the directory.
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointCorruptError(
                    f"{self.path / _SHARD_INDEX}: tensor {tensor} is in {name!r}, expected a safetensors file's name"
                )
        return weight_map


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key appears twice")
    return keys
