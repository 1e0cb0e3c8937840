"""Fixed numbers of version 2 of the format, and the names of its files."""

from __future__ import annotations

VERSION = 2
#: What is digested, read and moved through the tiers as one piece.
CHUNK_BYTES = 16 << 20
#: Where a tensor may begin: what a GPU's widest loads and TMA want, and a multiple of every element size.
TENSOR_ALIGNMENT = 256
#: Files end at a multiple of this, so that their tail can be read with O_DIRECT on any block device.
FILE_ALIGNMENT = 4096

MANIFEST = "manifest.json"
TENSOR_INDEX = "tensor_index.json"
MODEL_DIRECTORY = "model"
#: The only files that `model/` may hold; each is optional (an adapter has no config.json).
MODEL_FILES = (
    "adapter_config.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)

#: The bounds below keep the time and memory of opening any directory, however made, within 1 s and 64 MiB.
MAX_MANIFEST_BYTES = 8 << 20
MAX_TENSOR_INDEX_BYTES = 20 << 20
#: The largest tokenizer.json in use is 33 MB (Gemma 3).
MAX_MODEL_FILE_BYTES = 64 << 20
MAX_MODEL_FILES_BYTES = 128 << 20
MAX_TENSORS = 100_000
MAX_RANK = 8
#: Shapes and strides that differ from each other, in one checkpoint. Models have dozens.
MAX_DISTINCT_SHAPES = 1 << 14
#: More gpus than a server has; each partition costs an open file.
MAX_PARTITIONS = 64
#: 4 TiB.
MAX_CHUNKS = 1 << 18


def align_up(num_bytes: int, alignment: int) -> int:
    """Round up to a multiple of a power of two."""
    return (num_bytes + alignment - 1) & -alignment


def num_chunks(num_bytes: int) -> int:
    """How many chunks a partition of that size has."""
    return -(-num_bytes // CHUNK_BYTES)


def partition_name(rank: int) -> str:
    """Name of the data file of one gpu rank."""
    return f"partition_{rank:05d}.bin"


def model_file(name: str) -> str:
    """Name of an execution file as the manifest lists it."""
    return f"{MODEL_DIRECTORY}/{name}"
