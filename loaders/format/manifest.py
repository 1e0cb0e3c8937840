"""manifest.json: what belongs to a checkpoint, with digests of all of it; its own is the checkpoint's identity."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from loaders.errors import CheckpointCorruptError, CheckpointUnsupportedError
from loaders.format import strict_json
from loaders.format.dtypes import ITEMSIZE
from loaders.format.fields import Fields
from loaders.format.geometry import (
    CHUNK_BYTES,
    FILE_ALIGNMENT,
    MANIFEST,
    MAX_CHUNKS,
    MAX_MODEL_FILE_BYTES,
    MAX_MODEL_FILES_BYTES,
    MAX_PARTITIONS,
    MAX_TENSOR_INDEX_BYTES,
    MODEL_FILES,
    TENSOR_INDEX,
    VERSION,
    model_file,
    num_chunks,
    partition_name,
)
from loaders.format.strict_json import Json, shown

_MAX_SOURCE_CHARACTERS = 4096
#: Chunk digests, and room for everything else.
_MAX_VALUES = MAX_CHUNKS + 4096
_MAX_MEMBERS = 4096

# The members stand in this order and without blanks, so that format, version and digest are checked before any parsing.
_BEGIN = b'{"format":"sllm-checkpoint","version":'
_VERSION = re.compile(rb'(\d{1,9}),"content":')
_DIGEST_KEY = b',"digest":"'
_REST = re.compile(rb'([0-9a-f]{64})","origin":')

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_DIGEST = re.compile(r"[0-9a-f]{16}")
_SOURCE = re.compile(rf"[^\x00-\x1f\x7f]{{0,{_MAX_SOURCE_CHARACTERS}}}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size and SHA-256 (hex) of a file."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRecord:
    """Size and tree hash (hex) of a partition, and the digest of each of its chunks (docs/format.md)."""

    num_bytes: int
    tree_sha256: str
    chunk_digests: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Everything that makes a checkpoint the one it is."""

    #: By the name below the directory: the tensor index and the execution files.
    files: Mapping[str, FileRecord]
    #: In the order of gpu ranks.
    partitions: tuple[PartitionRecord, ...]
    #: Bytes of all storages, unpacked, by the type of the first tensor that lies in each.
    dtypes: Mapping[str, int]

    def canonical(self) -> bytes:
        """Write it in the one form that the digest is made of."""
        return strict_json.canonical(
            {
                "chunk_bytes": CHUNK_BYTES,
                "files": {
                    name: {"num_bytes": self.files[name].num_bytes, "sha256": self.files[name].sha256}
                    for name in sorted(self.files)
                },
                "partitions": [
                    {
                        "num_bytes": partition.num_bytes,
                        "tree_sha256": partition.tree_sha256,
                        "chunk_digests": [f"{digest:016x}" for digest in partition.chunk_digests],
                    }
                    for partition in self.partitions
                ],
                "dtypes": {name: self.dtypes[name] for name in sorted(self.dtypes)},
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content, and where it came from, which is no part of the identity."""

    content: Content
    #: SHA-256 (hex) of the canonical content: the checkpoint's identity.
    digest: str
    #: What it was made from, for people.
    source: str
    #: RFC 3339.
    created_at: str

    @classmethod
    def of(cls, content: Content, *, source: str, created_at: str) -> Manifest:
        """Make the manifest of a content."""
        digest = hashlib.sha256(content.canonical()).hexdigest()
        return cls(content=content, digest=digest, source=printable(source), created_at=created_at)

    @property
    def num_bytes(self) -> int:
        """Size of all partitions."""
        return sum(partition.num_bytes for partition in self.content.partitions)

    def encode(self) -> bytes:
        """Write the file."""
        origin = strict_json.canonical({"source": self.source, "created_at": self.created_at})
        version = str(VERSION).encode("ascii")
        digest = self.digest.encode("ascii")
        content = self.content.canonical()
        return b"".join([_BEGIN, version, b',"content":', content, _DIGEST_KEY, digest, b'","origin":', origin, b"}\n"])

    @classmethod
    def decode(cls, data: bytes, *, where: str = MANIFEST) -> Manifest:
        """Read the file strictly; raises CheckpointCorruptError, or CheckpointUnsupportedError for another version."""
        content, digest, origin = _split(data, where)
        if (found := hashlib.sha256(content).hexdigest()) != digest:
            raise CheckpointCorruptError(f"{where}: the digest of its content is {found}, expected {digest}")
        fields = Fields(_parse(origin, f"{where}: origin"), where=f"{where}: origin")
        source = fields.text("source", _SOURCE, f"up to {_MAX_SOURCE_CHARACTERS} printable characters")
        created_at = fields.text("created_at", _INSTANT, "an RFC 3339 time")
        fields.end()
        read = _read_content(_parse(content, where), where)
        manifest = cls(content=read, digest=digest, source=source, created_at=created_at)
        if manifest.encode() != data:
            raise CheckpointCorruptError(f"{where}: not in the canonical form (sorted, without blanks, plain ASCII)")
        return manifest


def printable(text: str) -> str:
    """Make any text fit for `Manifest.source`."""
    return "".join(character if character.isprintable() else "?" for character in text)[:_MAX_SOURCE_CHARACTERS]


def _split(data: bytes, where: str) -> tuple[bytes, str, bytes]:
    """Find content, digest and origin by their fixed places, without parsing any of them."""
    if not data.startswith(_BEGIN):
        raise CheckpointCorruptError(f"{where}: begins with {data[:24]!r}, expected {_BEGIN.decode()}")
    version = _VERSION.match(data, len(_BEGIN))
    if version is None:
        raise CheckpointCorruptError(f'{where}: no `"version":…,"content":` at byte {len(_BEGIN)}')
    if int(version[1]) != VERSION:
        raise CheckpointUnsupportedError(f"{where}: version {int(version[1])}, expected {VERSION}")
    # Quotes within text are escaped, so this can be no part of it; and the content has no such key.
    end = data.rfind(_DIGEST_KEY)
    rest = _REST.match(data, end + len(_DIGEST_KEY)) if end >= version.end() else None
    if rest is None:
        raise CheckpointCorruptError(f'{where}: no `"digest":"…","origin":` behind the content')
    if not data.endswith(b"}\n"):
        raise CheckpointCorruptError(f"{where}: ends with {data[-2:]!r}, expected a brace and a line feed")
    return data[version.end() : end], rest[1].decode("ascii"), data[rest.end() : -2]


def _parse(data: bytes, where: str) -> Json:
    return strict_json.parse(
        strict_json.decode(data, where=where, max_values=_MAX_VALUES, max_members=_MAX_MEMBERS), where=where
    )


def _read_content(value: Json, where: str) -> Content:
    fields = Fields(value, where=where)
    chunk_bytes = fields.integer("chunk_bytes")
    if chunk_bytes != CHUNK_BYTES:
        raise fields.wrong("chunk_bytes", chunk_bytes, str(CHUNK_BYTES))
    files = _read_files(fields.mapping("files"), f"{where}: files")
    partitions = tuple(
        _read_partition(entry, f"{where}: {partition_name(rank)}")
        for rank, entry in enumerate(fields.array("partitions", max_length=MAX_PARTITIONS))
    )
    if not partitions:
        raise fields.wrong("partitions", "an empty list", "at least one partition")
    if sum(len(partition.chunk_digests) for partition in partitions) > MAX_CHUNKS:
        raise CheckpointCorruptError(f"{where}: more than {MAX_CHUNKS} chunks")
    dtypes = _read_dtypes(fields.mapping("dtypes"), f"{where}: dtypes")
    fields.end()
    return Content(files=files, partitions=partitions, dtypes=dtypes)


def _read_files(members: Mapping[str, Json], where: str) -> dict[str, FileRecord]:
    limits = {TENSOR_INDEX: MAX_TENSOR_INDEX_BYTES} | {model_file(name): MAX_MODEL_FILE_BYTES for name in MODEL_FILES}
    files = {}
    for name, value in members.items():
        if name not in limits:
            raise CheckpointCorruptError(f"{where}: unknown file {shown(name)}, expected {', '.join(limits)}")
        fields = Fields(value, where=f"{where}: {name}")
        num_bytes = fields.integer("num_bytes", maximum=limits[name])
        files[name] = FileRecord(num_bytes=num_bytes, sha256=fields.text("sha256", _SHA256, "64 hexadecimal digits"))
        fields.end()
    if TENSOR_INDEX not in files:
        raise CheckpointCorruptError(f"{where}: {TENSOR_INDEX} is missing")
    model_bytes = sum(record.num_bytes for name, record in files.items() if name != TENSOR_INDEX)
    if model_bytes > MAX_MODEL_FILES_BYTES:
        raise CheckpointCorruptError(
            f"{where}: execution files of {model_bytes} bytes, expected at most {MAX_MODEL_FILES_BYTES}"
        )
    return files


def _read_partition(value: Json, where: str) -> PartitionRecord:
    fields = Fields(value, where=where)
    num_bytes = fields.integer("num_bytes")
    if num_bytes % FILE_ALIGNMENT:
        raise fields.wrong("num_bytes", num_bytes, f"a multiple of {FILE_ALIGNMENT}")
    tree_sha256 = fields.text("tree_sha256", _SHA256, "64 hexadecimal digits")
    texts = fields.array("chunk_digests", max_length=MAX_CHUNKS)
    if len(texts) != num_chunks(num_bytes):
        raise fields.wrong("chunk_digests", len(texts), f"{num_chunks(num_bytes)} digests for {num_bytes} bytes")
    for text in texts:
        if not isinstance(text, str) or _CHUNK_DIGEST.fullmatch(text) is None:
            raise fields.wrong("chunk_digests", text, "16 hexadecimal digits")
    fields.end()
    digests = tuple(int(str(text), 16) for text in texts)
    return PartitionRecord(num_bytes=num_bytes, tree_sha256=tree_sha256, chunk_digests=digests)


def _read_dtypes(members: Mapping[str, Json], where: str) -> dict[str, int]:
    fields = Fields(members, where=where)
    for name in members:
        if name not in ITEMSIZE:
            raise CheckpointCorruptError(f"{where}: unknown type {shown(name)}")
    return {name: fields.integer(name) for name in members}
