"""Opening refuses whatever is not exactly as docs/format.md says, names it, and allocates nothing for it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loaders.errors import CheckpointCorruptError, CheckpointMissingError, CheckpointUnsupportedError, LoaderError
from loaders.format.manifest import Content, FileRecord, Manifest, PartitionRecord
from loaders.format.validate import open_checkpoint
from loaders.writer.convert import convert
from tests.support.checkpoints import alter, content_of, small_state_dict, write_manifest

_INDEX, _MANIFEST, _PARTITION = "tensor_index.json", "manifest.json", "partition_00000.bin"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with execution files."""
    folder = tmp_path_factory.mktemp("original")
    path = folder / "checkpoint"
    convert(small_state_dict(), path)
    (path / "model").mkdir()
    text = '{"model_type": "llama"}'
    (path / "model" / "config.json").write_text(text)
    _list_model_files(path)
    return path


def _list_model_files(path: Path) -> None:
    """Put what is in `model/` into the manifest."""
    content = json.loads(content_of(path))
    for file in sorted((path / "model").iterdir()):
        data = file.read_bytes()
        record = {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        content["files"][f"model/{file.name}"] = record
    content["files"] = dict(sorted(content["files"].items()))
    write_manifest(path, json.dumps(content, separators=(",", ":")))


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "checkpoint")


def _num_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _refused(path: Path, message: str, kind: type[LoaderError] = CheckpointCorruptError) -> None:
    descriptors = _num_descriptors()
    with pytest.raises(kind, match=message) as caught:
        open_checkpoint(path)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)
    assert _num_descriptors() == descriptors


def _replace(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert re.search(old, text), old
        return re.sub(old, new, text, count=1)

    return change


def test_a_sound_checkpoint_opens_with_all_its_records(path: Path) -> None:
    with open_checkpoint(path) as opened:
        assert opened.manifest.digest == json.loads((path / _MANIFEST).read_text())["digest"]
        assert set(opened.index.tensors) | set(opened.index.aliases) == set(small_state_dict())
        assert opened.model_file_names == ("config.json",)
        assert opened.read_model_file("config.json") == b'{"model_type": "llama"}'
        assert os.fstat(opened.partitions[0].fd).st_size == opened.manifest.num_bytes
        opened.check_unchanged()


def test_closing_twice_closes_once(path: Path) -> None:
    before = _num_descriptors()
    opened = open_checkpoint(path)
    opened.close()
    opened.close()
    assert _num_descriptors() == before


def test_a_file_replaced_after_opening_is_not_the_one_that_is_read(path: Path) -> None:
    with open_checkpoint(path) as opened:
        before = opened.partitions[0].read_exactly(64)
        (path / _PARTITION).unlink()
        (path / _PARTITION).write_bytes(b"x" * 8192)
        assert opened.partitions[0].read_exactly(64) == before
        opened.check_unchanged()


@pytest.mark.parametrize("name", [_PARTITION, "model/config.json"])
def test_a_file_written_to_after_opening_is_noticed(path: Path, name: str) -> None:
    with open_checkpoint(path) as opened:
        os.utime(path / name, ns=(1, 1))
        with pytest.raises(CheckpointCorruptError, match=f"{name}: changed"):
            opened.check_unchanged()


def test_a_file_cut_off_after_opening_ends_a_read_with_its_name(path: Path) -> None:
    with open_checkpoint(path) as opened:
        os.truncate(path / _PARTITION, 100)
        with pytest.raises(CheckpointCorruptError, match=f"{_PARTITION}: ends at byte 100"):
            opened.partitions[0].read_into(memoryview(bytearray(4096)), 0)


def test_storages_beyond_the_budget_are_refused(path: Path) -> None:
    with open_checkpoint(path) as opened:
        total = sum(opened.manifest.content.dtypes.values())
    open_checkpoint(path, max_bytes=total).close()
    with pytest.raises(CheckpointCorruptError, match=f"tensors of {total} bytes, expected at most {total - 1}"):
        open_checkpoint(path, max_bytes=total - 1)


_PACKED = '"layout":"packed","codebook":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15],'


# Files: only regular ones, of the size listed, from this directory.


@pytest.mark.parametrize("name", [_MANIFEST, _INDEX, _PARTITION, "model/config.json"])
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    (path / name).unlink()
    _refused(path, f"{name}: no such file", CheckpointMissingError)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    _refused(tmp_path / "nowhere", "no such directory", CheckpointMissingError)
    (tmp_path / "file").touch()
    _refused(tmp_path / "file", "not a directory")


@pytest.mark.parametrize("name", [_MANIFEST, _INDEX, _PARTITION, "model/config.json", "model"])
def test_symbolic_links_are_refused(path: Path, name: str) -> None:
    (path / name).rename(path.parent / "elsewhere")
    (path / name).symlink_to(path.parent / "elsewhere")
    _refused(path, f"{name}: not a")


@pytest.mark.parametrize("name", [_MANIFEST, _INDEX, _PARTITION, "model/config.json"])
def test_hard_links_are_refused(path: Path, name: str) -> None:
    (path.parent / "elsewhere").hardlink_to(path / name)
    _refused(path, f"{name}: has 2 hard links")


@pytest.mark.parametrize("name", [_MANIFEST, _INDEX, _PARTITION, "model/config.json"])
@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
def test_what_is_no_regular_file_is_refused_without_waiting(path: Path, name: str, kind: str) -> None:
    (path / name).unlink()
    if kind == "fifo":
        os.mkfifo(path / name)
    elif kind == "directory":
        (path / name).mkdir()
    else:
        os.mknod(path / name, 0o140600)
    _refused(path, f"{name}: not a regular file")


@pytest.mark.parametrize("change", [-1, 1, 4096])
@pytest.mark.parametrize("name", [_INDEX, _PARTITION, "model/config.json"])
def test_a_file_of_another_size_is_refused(path: Path, name: str, change: int) -> None:
    size = (path / name).stat().st_size
    os.truncate(path / name, max(0, size + change))
    _refused(path, rf"{name}: {max(0, size + change)} bytes, expected {size}")


def test_the_manifest_cut_off_anywhere_is_refused(path: Path) -> None:
    data = (path / _MANIFEST).read_bytes()
    for length in range(len(data)):
        (path / _MANIFEST).write_bytes(data[:length])
        _refused(path, _MANIFEST)


@pytest.mark.parametrize("name", ["extra.py", "modeling_x.py", "config.json.bak"])
def test_a_file_in_model_that_the_manifest_does_not_list_is_refused(path: Path, name: str) -> None:
    (path / "model" / name).touch()
    _refused(path, f"model/{name}: is there, but not in the manifest")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("/")])
def test_a_folder_of_model_files_that_the_manifest_knows_nothing_of_is_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    convert(small_state_dict(), tmp_path / "c")
    make(tmp_path / "c" / "model")
    _refused(tmp_path / "c", "model: is there, but not in the manifest")


def test_every_bit_of_the_json_files_counts(path: Path) -> None:
    origin = (path / _MANIFEST).read_bytes().index(b'"origin"')
    for name in (_INDEX, "model/config.json", _MANIFEST):
        data = (path / name).read_bytes()
        # Where it came from is no part of the identity, and free text.
        for position in range(0, origin if name == _MANIFEST else len(data), 3):
            changed = bytearray(data)
            changed[position] ^= 1 << position % 8
            (path / name).write_bytes(changed)
            with pytest.raises((CheckpointCorruptError, CheckpointUnsupportedError), match=name):
                open_checkpoint(path)
        (path / name).write_bytes(data)
    open_checkpoint(path).close()


# The manifest.


@pytest.mark.parametrize(
    ("old", "new", "message", "kind"),
    [
        ('"version":2', '"version":1', "version 1, expected 2", CheckpointUnsupportedError),
        ('"version":2', '"version":-1', "no `\"version\"", CheckpointCorruptError),
        ("sllm-checkpoint", "sllm-checkpoinT", "expected {\"format\":\"sllm-checkpoint\"", CheckpointCorruptError),
        (r'\A\{', "[{", "begins with", CheckpointCorruptError),
        (r'\A', " ", "begins with", CheckpointCorruptError),
        (r'\n\Z', "", "ends with", CheckpointCorruptError),
        (r'\Z', "{}", "ends with", CheckpointCorruptError),
        ('"digest":"', '"digest":"0', "digest", CheckpointCorruptError),
        ('"origin":', '"origin" :', "origin", CheckpointCorruptError),
        ("created_at", "created_At", "`created_at` is missing", CheckpointCorruptError),
        (r'"created_at":"[^"]*"', '"created_at":"yesterday"', "expected an RFC 3339 time", CheckpointCorruptError),
        ('"source":"[^"]*"', '"source":7', "`source` is 7, expected up to", CheckpointCorruptError),
        ('"source":', '"source":"","source":', "key 'source' appears twice", CheckpointCorruptError),
    ],
)  # fmt: skip
def test_a_manifest_of_another_form_is_refused(
    path: Path, old: str, new: str, message: str, kind: type[LoaderError]
) -> None:
    text = (path / _MANIFEST).read_text()
    (path / _MANIFEST).write_text(_replace(old, new.replace("\\", r"\\"))(text))
    _refused(path, re.escape(message), kind)


def test_the_digest_is_checked_before_the_content_is_parsed(path: Path) -> None:
    text = (path / _MANIFEST).read_text().replace('"chunk_bytes":', '"chunk_bytes":{{{')
    (path / _MANIFEST).write_text(text)
    _refused(path, "the digest of its content is [0-9a-f]{64}, expected [0-9a-f]{64}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"chunk_bytes":16777216', '"chunk_bytes":4096', "`chunk_bytes` is 4096, expected 16777216"),
        ('"chunk_bytes":16777216', '"chunk_bytes":true', "`chunk_bytes` is True, expected an integer"),
        ('"chunk_bytes":16777216', '"chunk_bytes":16777216.0', "16777216.0 is not an integer"),
        ('"chunk_bytes":16777216', '"chunk_bytes":NaN', "NaN is not an integer"),
        ('"chunk_bytes":16777216', '"chunk_bytes":9223372036854775808', "to 9223372036854775807"),
        ('"chunk_bytes":16777216', '"chunk_bytes":-1', "`chunk_bytes` is -1"),
        ('"chunk_bytes":16777216,', "", "`chunk_bytes` is missing"),
        ('"chunk_bytes":16777216', '"chunk_bytes":16777216,"chunk_bytes":16777216', "key 'chunk_bytes' appears twice"),
        ('"chunk_bytes":16777216', '"chunk_bytes":16777216,"more":1', "unknown field 'more'"),
        ('"chunk_bytes":16777216', '"chunk_bytes": 16777216', "canonical form"),
        ('"files":{', '"files":{"../../etc/passwd":{"num_bytes":1,"sha256":""},', "unknown file '../../etc/passwd'"),
        ('"files":{', '"files":{"model/modeling.py":{"num_bytes":1,"sha256":""},', "unknown file 'model/modeling.py'"),
        ('"tensor_index.json":{', '"model/tokenizer.json":{', "tensor_index.json is missing"),
        ('("tensor_index.json".*?"sha256":")[0-9a-f]{64}', r'\1zz', "`sha256` is 'zz', expected 64 hexadecimal digits"),
        (r'"partitions":\[.*?\}\]', '"partitions":[]', "expected at least one partition"),
        (r'("partitions":\[\{"num_bytes":)\d+', r'\g<1>100', "`num_bytes` is 100, expected a multiple of 4096"),
        (r'("partitions":\[\{"num_bytes":)\d+', r'\g<1>4294967296', "expected 256 digests for 4294967296 bytes"),
        (r'"chunk_digests":\["[0-9a-f]{16}"\]', '"chunk_digests":[]', "`chunk_digests` is 0, expected 1 digests"),
        (r'"chunk_digests":\["[0-9a-f]{16}"\]', '"chunk_digests":["0"]', "`chunk_digests` is '0', expected 16 hex"),
        (r'"chunk_digests":\["[0-9a-f]{16}"\]', '"chunk_digests":[[]]', "`chunk_digests` is a JSON list"),
        ('"bfloat16":', '"bfloat17":', "unknown type 'bfloat17'"),
        (r'"bfloat16":\d+', '"bfloat16":7', "bytes by type are"),
    ],
)  # fmt: skip
def test_a_manifest_with_other_content_is_refused(path: Path, old: str, new: str, message: str) -> None:
    alter(path, content=_replace(old, new))
    _refused(path, re.escape(message))


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_nesting_is_refused(path: Path, depth: int) -> None:
    alter(path, content=_replace(r'"chunk_bytes":16777216', '"chunk_bytes":' + "[" * depth + "]" * depth))
    _refused(path, "nested too deeply|`chunk_bytes` is a JSON list")


def test_a_manifest_that_is_too_large_is_not_read(path: Path) -> None:
    os.truncate(path / _MANIFEST, (8 << 20) + 1)
    _refused(path, f"{(8 << 20) + 1} bytes, expected at most {8 << 20}")


# The tensor index. Entries of the original, in order: embedding (bfloat16, at 0), layers.0.a (float32), the two views.


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r'\A\{', "[", "expected '{\"tensors\":{'"),
        (r'\n\Z', "", "expected"),
        (r'\Z', " ", "expected the end"),
        ('"tensors":', '"tensors" :', "expected '{\"tensors\":{'"),
        ('"partition":0', '"partition":1', "is behind one of 1"),
        ('"partition":0', '"partition":64', "`partition` is '64', expected less than 64"),
        ('"partition":0', '"partition":00', "tensor model.embed_tokens.weight: `partition`"),
        ('"partition":0', '"partition":-0', "tensor model.embed_tokens.weight: `partition`"),
        ('"partition":0', '"partition":0.0', "tensor model.embed_tokens.weight: `partition`"),
        ('"partition":0', '"partition":true', "tensor model.embed_tokens.weight: `partition`"),
        ('"partition":0,', "", "tensor model.embed_tokens.weight: `partition`"),
        ('"partition":0', '"partition":0,"partition":0', "tensor model.embed_tokens.weight: `offset`"),
        ('"offset":0', '"offset":1', "model.embed_tokens.weight begins at 1, expected 0"),
        ('"offset":0', '"offset":256', "begins at 256, expected 0: it leaves a hole"),
        ('"offset":1792', '"offset":1536', "overlaps the one before it"),
        ('"offset":1792', '"offset":1600', "begins at 1600, expected 1792: it leaves a hole or is not aligned"),
        ('"offset":1792', '"offset":2048', "begins at 2048, expected 1792: it leaves a hole"),
        ('"offset":1792', '"offset":999999999999999999', "begins at 999999999999999999, expected 1792"),
        ('"offset":1792', '"offset":9223372036854775808', "model.layers.0.a.weight: `offset`"),
        ('"num_bytes":1600', '"num_bytes":1599', "reaches to byte 1600 of its storage, expected at most 1599"),
        ('"num_bytes":1600', '"num_bytes":5000', "begins at 1792, expected 5120: it overlaps the one before it"),
        ('"dtype":"bfloat16"', '"dtype":"bfloat17"', "`dtype` is 'bfloat17', expected one of"),
        ('"dtype":"bfloat16"', '"dtype":"float64"', "reaches to byte 6400"),
        ('"dtype":"bfloat16"', '"dtype":"__class__"', "`dtype` is '__class__'"),
        (r'"shape":\[50,16\]', '"shape":[50,17]', "reaches to byte 1700"),
        (r'"shape":\[50,16\]', '"shape":[999999999999999999,0]', "elements"),
        (r'"shape":\[50,16\]', '"shape":[999999999999999999,999999999999999999,0]', "elements"),
        (r'"shape":\[50,16\]', '"shape":[-50,16]', "model.embed_tokens.weight: `shape`"),
        (r'"shape":\[50,16\]', '"shape":[1,1,1,1,1,1,1,1,1]', "model.embed_tokens.weight: `shape`"),
        (r'"shape":\[50,16\]', '"shape":[50,16.0]', "model.embed_tokens.weight: `shape`"),
        (r'"shape":\[50,16\]', '"shape":[50,[16]]', "model.embed_tokens.weight: `shape`"),
        (r'"shape":\[50,16\]', '"shape":[50, 16]', "model.embed_tokens.weight: `shape`"),
        (r'"shape":\[50,16\]', '"shape":[50,16],"stride":[16,1]', "`stride` is '[16,1]', expected to be left out"),
        (r'"shape":\[50,16\]', '"shape":[50,16],"stride":[16]', "expected 2 numbers as in `shape`"),
        (r'"shape":\[50,16\]', '"shape":[50,16],"stride":[17,1]', "reaches to byte 1698"),
        (r'"shape":\[50,16\]', '"shape":[50,16],"storage_offset":0', "no further field"),
        (r'"shape":\[50,16\]', '"shape":[50,16],"storage_offset":1', "reaches to byte 1602"),
        (r'"shape":\[50,16\]', '"shape":[50,16],"color":"red"', "no further field"),
        ('"model.embed_tokens.weight":{', '"../x":{', "`name`"),
        ('"model.embed_tokens.weight":{', '"":{', "`name`"),
        ('"model.embed_tokens.weight":{', '"' + "a" * 257 + '":{', "`name`"),
        ('"model.embed_tokens.weight":{', r'"a\\u0000":{', "`name`"),
        ('"model.embed_tokens.weight":{', '"model.layers.0.a.weight":{', "model.layers.0.a.weight appears twice"),
        ('"lm_head.weight":"', '"model.embed_tokens.weight":"', "model.embed_tokens.weight appears twice"),
        ('"lm_head.weight":"model', '"lm_head.weight":"modem', "which is no tensor"),
        ('"lm_head.weight":"[^"]*"', '"lm_head.weight":"lm_head.weight"', "which is no tensor"),
        ('"lm_head.weight":"[^"]*"', '"lm_head.weight":7', "expected an alias"),
        ('"aliases":{', '"aliases":{"z":"model.embed_tokens.weight",', "alias lm_head.weight is out of order"),
        (r'\}\}\n\Z', '}},"more":{}}\n', "expected"),
    ],
)  # fmt: skip
def test_an_index_of_another_form_is_refused(path: Path, old: str, new: str, message: str) -> None:
    alter(path, index=_replace(old, new))
    _refused(path, re.escape(message))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"layout":"packed"', "no further field"),
        ('"layout":"raw"', "no further field"),
        (_PACKED[:-1], "`layout` is 'incomplete'"),
        ('"segments":[0]', "`layout` is 'incomplete'"),
        ('"layout":"packed","codebook":[0,1,2],"segments":[0]', "`codebook` is '[0,1,2]', expected 16 numbers"),
        ('"layout":"packed","codebook":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,256],"segments":[0]', "`codebook`"),
        ('"layout":"packed","codebook":[0,0,2,3,4,5,6,7,8,9,10,11,12,13,14,15],"segments":[0]', "`codebook`"),
        (_PACKED + '"segments":[]', "has 0 segments, expected 1"),
        (_PACKED + '"segments":[999999]', "999999 patches"),
        (_PACKED + '"segments":[0]', "expected 1200 in"),
        (_PACKED + '"segments":[0,0]', "has 2 segments, expected 1"),
        (_PACKED + '"segments":[00]', "without leading zeros"),
        (_PACKED + '"segments":[1,]', "without leading zeros"),
    ],
)  # fmt: skip
def test_packed_fields_that_do_not_fit_are_refused(path: Path, fields: str, message: str) -> None:
    alter(path, index=_replace(r'("shape":\[50,16\])', rf"\1,{fields}"))
    _refused(path, re.escape(message))


def test_packed_bytes_of_another_type_are_refused(path: Path) -> None:
    codebook = ",".join(map(str, range(16)))
    fields = rf'"shape":[33,7],"layout":"packed","codebook":[{codebook}],"segments":[0]'
    alter(path, index=_replace(r'"shape":\[33,7\]', fields))
    _refused(path, "model.layers.0.a.weight is packed, expected that only for contiguous bfloat16")


def test_tensors_of_one_storage_are_sorted_by_name(path: Path) -> None:
    def swapped(text: str) -> str:
        return text.replace("model.layers.0.view", "model.layers.2.view")

    alter(path, index=swapped)
    _refused(path, "model.layers.1.view is behind model.layers.2.view")


def test_a_file_that_ends_elsewhere_than_the_tensors_do_is_refused(path: Path) -> None:
    alter(path, content=_replace(r'("partitions":\[\{"num_bytes":)\d+', r"\g<1>8192"))
    _refused(path, "tensors fill 4096 bytes of partition_00000.bin, expected 8192")


def test_a_partition_without_tensors_has_no_bytes(path: Path) -> None:
    empty = '{"num_bytes":0,"tree_sha256":"' + "0" * 64 + '","chunk_digests":[]}'
    alter(path, content=_replace(r'("partitions":\[\{.*?\})\]', rf"\1,{empty}]"))
    (path / "partition_00001.bin").touch()
    open_checkpoint(path).close()
    (path / "partition_00001.bin").write_bytes(b"hidden")
    _refused(path, "partition_00001.bin: 6 bytes, expected 0")


def test_tensors_in_a_partition_that_is_not_listed_are_refused(path: Path) -> None:
    alter(path, index=lambda text: text.replace('"partition":0', '"partition":5'))
    _refused(path, "tensors in 6 partitions, expected at most 1")


def test_more_tensors_than_allowed_are_refused(path: Path) -> None:
    entry = '"t{}":{{"partition":0,"offset":0,"num_bytes":0,"dtype":"bool","shape":[0]}}'
    tensors = ",".join(entry.format(number) for number in range(100_001))
    alter(path, index=lambda _: f'{{"tensors":{{{tensors}}},"aliases":{{}}}}\n')
    _refused(path, "more than 100000 tensors")


def test_what_is_written_is_what_is_read() -> None:
    manifest = Manifest.decode(_sample())
    assert manifest.encode() == _sample()


def _sample() -> bytes:
    content = Content(
        files={"tensor_index.json": FileRecord(num_bytes=3, sha256="a" * 64)},
        partitions=(PartitionRecord(num_bytes=4096, tree_sha256="b" * 64, chunk_digests=((1 << 64) - 1,)),),
        dtypes={"bfloat16": 4000},
    )
    return Manifest.of(content, source='a "quoted"\n\x00 ü path', created_at="2026-01-02T03:04:05+00:00").encode()


def test_an_adapter_needs_no_config(tmp_path: Path) -> None:
    convert({"base_model.layers.0.lora_A.weight": torch.ones(2, 2)}, tmp_path / "c")
    with open_checkpoint(tmp_path / "c") as opened:
        assert opened.model_file_names == ()
