"""Headers of .safetensors files: what the library writes is read alike, everything else is refused by name."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from loaders.errors import CheckpointCorruptError, CheckpointMissingError, CheckpointUnsupportedError, LoaderError
from loaders.format.safetensors_header import DTYPES, open_safetensors
from loaders.format.torch_dtypes import BY_NAME


def _write(path: Path, header: str | bytes, num_bytes: int = 0, length: int | None = None) -> Path:
    text = header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(num_bytes))
    return path


def _refused(path: Path, message: str, kind: type[LoaderError] = CheckpointCorruptError) -> None:
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with pytest.raises(kind, match=message) as caught:
        open_safetensors(path)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == descriptors


def test_what_the_library_writes_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    names = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16"]
    names += ["float32", "float64", "complex64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]
    names += ["float8_e8m0fnu", "float4_e2m1fn_x2"]
    tensors = {name: torch.arange(48, dtype=torch.uint8).view(BY_NAME[name]).view(2, -1) for name in names}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.zeros(3, 0)}
    save_file(tensors, path, metadata={"format": "pt", "note": '{"a": [1, "}"]} ü'})
    data = path.read_bytes()
    with open_safetensors(path) as opened, safe_open(path, "pt") as library:
        assert set(opened.tensors) == set(library.keys())
        for name, tensor in opened.tensors.items():
            expected = tensors[name]
            assert tensor.dtype == str(expected.dtype).removeprefix("torch.")
            assert tensor.shape == tuple(expected.shape) == tuple(library.get_tensor(name).shape)
            assert data[tensor.begin : tensor.end] == bytes(expected.reshape(-1).view(torch.uint8).tolist())
        assert opened.header_bytes == min(tensor.begin for tensor in opened.tensors.values())
        assert [tensor.begin for tensor in opened.tensors.values()] == sorted(
            tensor.begin for tensor in opened.tensors.values()
        )


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_type_of_the_specification_is_known(tmp_path: Path, name: str) -> None:
    num_bytes = 16 * DTYPES[name].bits // 8
    header = f'{{"a":{{"dtype":"{name}","shape":[1,16],"data_offsets":[0,{num_bytes}]}}}}'
    with open_safetensors(_write(tmp_path / "x", header, num_bytes)) as opened:
        tensor = opened.tensors["a"]
        assert tensor.num_bytes == num_bytes
        assert tensor.dtype is None or tensor.dtype in BY_NAME
        assert tensor.shape == ((1, 8) if name == "F4" else (1, 16))


def test_links_are_followed_because_caches_consist_of_them(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "blob")
    (tmp_path / "x.safetensors").symlink_to(tmp_path / "blob")
    open_safetensors(tmp_path / "x.safetensors").close()


def test_blanks_around_and_behind_the_header_are_fine(tmp_path: Path) -> None:
    header = '{ "a" : {"dtype": "U8",\n "shape": [2], "data_offsets": [0, 2]} ,"__metadata__":{ } }   '
    with open_safetensors(_write(tmp_path / "x", header, 2)) as opened:
        assert list(opened.tensors) == ["a"]
    with open_safetensors(_write(tmp_path / "empty", "{}")) as opened:
        assert opened.tensors == {}


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "device", "link to device"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, 0o140600)
    else:
        path.symlink_to("/dev/zero")
    _refused(path, "not a regular file")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    _refused(tmp_path / "x", "no such file", CheckpointMissingError)


def test_a_file_cut_off_or_extended_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        _refused(path, "expected")
    path.write_bytes(data + b"\0")
    _refused(path, f"{len(data) + 1} bytes, expected {len(data)}")


def test_a_change_after_opening_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_file({"a": torch.ones(3)}, path)
    with open_safetensors(path) as opened:
        opened.check_unchanged()
        os.utime(path, ns=(1, 1))
        with pytest.raises(CheckpointCorruptError, match="x: changed"):
            opened.check_unchanged()
    opened.close()


_A = '"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "begins with b'', expected {"),
        (" {}", "begins with b' ', expected {"),
        ("[]", "begins with b'[', expected {"),
        ("{", "is the end, expected text"),
        ('{"a"', "expected :"),
        ('{"a":}', "expected an object"),
        ('{"a":[]}', "expected an object"),
        ("{" + _A, "is the end, expected }"),
        ("{" + _A + "]", "expected }"),
        ("{" + _A + ",}", "expected text"),
        ("{" + _A + "}x", "is 'x', expected the end"),
        ("{" + _A + "}\0", "expected the end"),
        ("{" + _A + "," + _A + "}", "'a' appears twice"),
        ('{1:{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', "expected text"),
        ('{"":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', "tensor name '', expected 1 to 512 printable"),
        ('{"a\\u0000":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', "expected 1 to 512 printable"),
        ('{"a":{"dtype":"U9","shape":[2],"data_offsets":[0,2]}}', "`dtype` is 'U9', expected one of BOOL"),
        ('{"a":{"dtype":8,"shape":[2],"data_offsets":[0,2]}}', "`dtype` is 8"),
        ('{"a":{"shape":[2],"data_offsets":[0,2]}}', "`dtype` is missing"),
        ('{"a":{"dtype":"U8","data_offsets":[0,2]}}', "`shape` is missing"),
        ('{"a":{"dtype":"U8","shape":[2]}}', "`data_offsets` is missing"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":1}}', "unknown field 'x'"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"shape":[2]}}', "key 'shape' appears twice"),
        ('{"a":{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]}}', "2.0 is not an integer"),
        ('{"a":{"dtype":"U8","shape":[2e0],"data_offsets":[0,2]}}', "2e0 is not an integer"),
        ('{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,2]}}', "NaN is not an integer"),
        ('{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,2]}}', "`shape` is True, expected only integers"),
        ('{"a":{"dtype":"U8","shape":[-2],"data_offsets":[0,2]}}', "`shape` is -2"),
        ('{"a":{"dtype":"U8","shape":["2"],"data_offsets":[0,2]}}', "`shape` is '2'"),
        ('{"a":{"dtype":"U8","shape":2,"data_offsets":[0,2]}}', "`shape` is 2, expected a list"),
        ('{"a":{"dtype":"U8","shape":{},"data_offsets":[0,2]}}', "an object within an object|not the JSON"),
        ('{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,2]}}', "`shape` is 9, expected a list of"),
        ('{"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,2]}}', "`shape` is 9223372036854775808"),
        ('{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}}', "fewer than 2^63 bytes"),
        ('{"a":{"dtype":"F64","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}', "fewer than 2^63 bytes"),
        ('{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,2]}}', "`data_offsets` is '[0, 2]', expected 3 bytes"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}', "`data_offsets` is '[2, 0]', expected 2 bytes"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0]}}', "`data_offsets` is '[0]', expected two numbers"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2,4]}}', "`data_offsets` is 3, expected a list of at most"),
        ('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}', "expected 1.5 bytes"),
        ('{"a":{"dtype":"F4","shape":[2,1],"data_offsets":[0,1]}}', "`shape` is '[2, 1]', expected an even last"),
        ('{"a":{"dtype":"F6_E2M3","shape":[3],"data_offsets":[0,2]}}', "expected 2.25 bytes"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', "'a' begins at 62, expected 61: it leaves a hole"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', "63 bytes, expected 62"),
        ("{" + _A + ',"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', "it overlaps the one before it"),
        ("{" + _A + ',"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', "it overlaps the one before it"),
        ('{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}', "63 bytes, expected 70"),
        ('{"__metadata__":7}', "expected {"),
        ('{"__metadata__":{"a":7}}', "is '7', expected text"),
        ('{"__metadata__":{"a":{}}}', "is '{', expected text"),
        ('{"__metadata__":{"a":"","a":""}}', "__metadata__: 'a' appears twice"),
        ('{"__metadata__":{},"__metadata__":{}}', "'__metadata__' appears twice"),
        (b'{"\xff":{}}', "not UTF-8 at byte 2"),
        ('{"a":' + "[" * 100_000, "expected an object"),
        ('{"a":{"dtype":' + "[" * 3000 + "]" * 900 + "}", "nested too deeply|not the JSON"),
        ('{"a":{"dtype":"U8","shape":[' + "1," * 5000 + "1]}}", "no end of an object within 4096 characters"),
    ],
)  # fmt: skip
def test_a_header_of_another_form_is_refused(tmp_path: Path, header: str | bytes, message: str) -> None:
    exact = re.escape(message).replace(r"\|", "|")
    _refused(_write(tmp_path / "x", header, 2), exact)


@pytest.mark.parametrize("length", [3, 100, 100_000_001, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_length_that_is_not_that_of_the_header_is_refused(tmp_path: Path, length: int) -> None:
    _refused(_write(tmp_path / "x", "{}", 0, length), f"header of {length} bytes, expected at most 2")


def test_a_header_beyond_our_limit_is_called_that(tmp_path: Path) -> None:
    path = _write(tmp_path / "x", "{}", 0, 50_000_000)
    os.truncate(path, 60_000_000)
    _refused(path, "header of 50000000 bytes; at most", CheckpointUnsupportedError)


def test_the_thirty_ways_to_hide_something_behind_a_sound_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_file({"a": torch.ones(3)}, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for gap in range(1, 31):
        header["a"]["data_offsets"] = [gap, gap + 12]
        _write(path, json.dumps(header), gap + 12)
        _refused(path, "leaves a hole")
