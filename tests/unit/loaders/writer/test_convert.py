"""Converting: appears whole or not at all, goes on where it was stopped, refuses what it must, says what is wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from loaders.errors import (
    CheckpointCorruptError,
    CheckpointExistsError,
    CheckpointMissingError,
    CheckpointUnsupportedError,
    ConversionBusyError,
    ConversionCanceledError,
    DiskFullError,
    LoaderError,
    StorageError,
)
from loaders.format import files
from loaders.format.validate import open_checkpoint
from loaders.format.verify import verify
from loaders.writer import disk, work
from loaders.writer.convert import convert
from tests.support.checkpoints import read_back

_ROOT = Path(__file__).parents[4]
_MIB = 1 << 20


def _source(folder: Path, num_mib: int = 1, num_shards: int = 1) -> Path:
    """A directory as from_pretrained wants it, with layers of a MiB."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    layers = [f"model.layers.{number}.weight" for number in range(num_mib)]
    tensors = {name: torch.randint(0, 256, (_MIB,), dtype=torch.uint8, generator=generator) for name in layers}
    tensors |= {"model.embed_tokens.weight": torch.randn(7, 3), "lm_head.weight": torch.randn(3, 7)}
    names = list(tensors)
    shards = [f"model-{number:05d}-of-{num_shards:05d}.safetensors" for number in range(1, num_shards + 1)]
    if num_shards == 1:
        shards = ["model.safetensors"]
    for number, shard in enumerate(shards):
        save_file({name: tensors[name] for name in names[number::num_shards]}, folder / shard)
    if num_shards > 1:
        weight_map = {name: shards[place % num_shards] for place, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _WriteCount:
    """Counts the chunks that are written, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = disk.DataFile.write

        def write(*arguments: object) -> None:
            self.count += 1
            original(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(disk.DataFile, "write", write)


def _after(num_mib: int, cancel: threading.Event) -> Callable[[int, int], None]:
    """Cancel once more than that is done."""

    def on_progress(done: int, _: int) -> None:
        if done > num_mib * _MIB:
            cancel.set()

    return on_progress


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_directory_becomes_a_checkpoint_with_the_listed_execution_files_only(tmp_path: Path, num_shards: int) -> None:
    source = _source(tmp_path / "source", num_mib=3, num_shards=num_shards)
    before = _contents(source)
    seen: list[tuple[int, int]] = []
    manifest = convert(source, tmp_path / "c", on_progress=lambda done, total: seen.append((done, total)))
    assert _names(tmp_path) == {"source", "c"}
    assert _names(tmp_path / "c") == {"manifest.json", "tensor_index.json", "partition_00000.bin", "model"}
    assert _names(tmp_path / "c" / "model") == {"config.json", "tokenizer.json"}
    assert manifest.source == str(source)
    assert verify(tmp_path / "c") == manifest
    assert seen[-1] == (manifest.num_bytes, manifest.num_bytes)
    assert seen == sorted(seen)
    assert _contents(source) == before
    restored = read_back(tmp_path / "c")
    assert torch.equal(restored["model.layers.2.weight"], _source_tensors(source)["model.layers.2.weight"])


def _source_tensors(source: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in source.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_the_same_source_gives_the_same_bytes_with_any_number_of_threads(tmp_path: Path) -> None:
    source = _source(tmp_path / "source", num_mib=40)
    digests = {convert(source, tmp_path / str(number), num_threads=number).digest for number in (1, 3)}
    assert len(digests) == 1
    contents = [_contents(tmp_path / str(number)) for number in (1, 3)]
    for content in contents:
        content.pop("manifest.json")
    assert contents[0] == contents[1]


def test_an_adapter_is_converted_without_a_config(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    save_file({"base.layers.0.lora_A.weight": torch.ones(2, 2)}, tmp_path / "source" / "adapter_model.safetensors")
    (tmp_path / "source" / "adapter_config.json").write_text("{}")
    convert(tmp_path / "source", tmp_path / "c")
    with open_checkpoint(tmp_path / "c") as opened:
        assert opened.model_file_names == ("adapter_config.json",)
        assert list(opened.index.tensors) == ["base.layers.0.lora_A.weight"]


# Destinations that exist.


def test_converting_again_to_the_same_place_changes_nothing(tmp_path: Path) -> None:
    source = _source(tmp_path / "source")
    first = convert(source, tmp_path / "c")
    stats = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")}
    assert convert(source, tmp_path / "c") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")} == stats
    assert _names(tmp_path) == {"source", "c"}


@pytest.mark.parametrize(
    "kind", ["empty", "file", "link", "other files", "other tensors", "other bytes", "other config"]
)
def test_a_destination_that_is_something_else_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    source, destination = _source(tmp_path / "source"), tmp_path / "c"
    if kind == "file":
        destination.write_text("mine")
    elif kind == "link":
        destination.symlink_to(tmp_path / "nowhere")
    elif kind.startswith("other"):
        convert(source, destination)
        if kind == "other files":
            (destination / "manifest.json").write_text("{}")
        elif kind == "other tensors":
            save_file({"a": torch.ones(3)}, source / "model.safetensors")
        elif kind == "other config":
            (source / "config.json").write_text("{}")
        else:
            data = bytearray((source / "model.safetensors").read_bytes())
            data[-1] ^= 1
            (source / "model.safetensors").write_bytes(data)
    else:
        destination.mkdir()
    before = _contents(destination) if destination.is_dir() else None
    with pytest.raises(CheckpointExistsError, match="c: exists, and is not the checkpoint that would be written"):
        convert(source, destination)
    assert before is None or _contents(destination) == before
    assert _names(tmp_path) == {"source", "c"}


def test_a_destination_that_comes_into_being_meanwhile_is_left_alone(tmp_path: Path) -> None:
    source = _source(tmp_path / "source")

    def interfere(*_: int) -> None:
        (tmp_path / "c").mkdir(exist_ok=True)

    with pytest.raises(CheckpointExistsError, match="came into being meanwhile"):
        convert(source, tmp_path / "c", on_progress=interfere)
    assert _contents(tmp_path / "c") == {}


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    source = _source(tmp_path / "source")

    def second(*_: int) -> None:
        with pytest.raises(ConversionBusyError, match="c: another process is writing it"):
            convert(source, tmp_path / "c")

    convert(source, tmp_path / "c", on_progress=second)
    verify(tmp_path / "c")


# Sources that cannot be used.


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda path: (path / "model.safetensors").unlink(), CheckpointMissingError, "neither model.safetensors"),
        (
            lambda path: os.truncate(path / "model.safetensors", 5000),
            CheckpointCorruptError,
            "model.safetensors: 5000 ",
        ),
        (
            lambda path: save_file({"a b": torch.ones(1)}, path / "model.safetensors"),
            CheckpointUnsupportedError,
            "tensor name 'a b'",
        ),
        (
            lambda path: os.truncate(path / "tokenizer.json", (64 << 20) + 1),
            CheckpointCorruptError,
            "tokenizer.json: 67108865 bytes, expected at most",
        ),
    ],
    ids=["missing", "truncated", "name", "large file"],
)
def test_a_source_that_cannot_be_used_is_refused_and_leaves_nothing(
    tmp_path: Path, spoil: Callable[[Path], None], kind: type[LoaderError], message: str
) -> None:
    source = _source(tmp_path / "source")
    spoil(source)
    with pytest.raises(kind, match=message):
        convert(source, tmp_path / "c")
    assert _names(tmp_path) == {"source"}


def test_a_type_that_torch_lacks_is_refused_by_name(tmp_path: Path) -> None:
    header = b'{"odd":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with pytest.raises(CheckpointUnsupportedError, match="tensor odd has a type that torch lacks"):
        convert(tmp_path / "source", tmp_path / "c")
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_execution_files_that_no_reader_would_take_together_are_refused(tmp_path: Path) -> None:
    source = _source(tmp_path / "source")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (source / name).touch()
        os.truncate(source / name, 44 * _MIB)
    with pytest.raises(CheckpointUnsupportedError, match="execution files of 138412032 bytes, expected"):
        convert(source, tmp_path / "c")


def test_an_index_that_no_reader_would_take_is_refused(tmp_path: Path) -> None:
    tensor = torch.zeros(0)
    tensors = {f"{'x' * 240}{number}": tensor for number in range(75_000)}
    with pytest.raises(CheckpointUnsupportedError, match=r"a tensor index of \d+ bytes, expected at most 20971520"):
        convert(tensors, tmp_path / "c")
    assert _names(tmp_path) == set()


@pytest.mark.parametrize("change", ["a tensor more", "another shard", "twice"])
def test_shards_that_contradict_their_index_are_refused(tmp_path: Path, change: str) -> None:
    source = _source(tmp_path / "source", num_mib=2, num_shards=2)
    index = source / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    shards = sorted(set(value["weight_map"].values()))
    if change == "a tensor more":
        value["weight_map"]["gone"] = shards[0]
    elif change == "another shard":
        value["weight_map"]["lm_head.weight"] = shards[shards[0] == value["weight_map"]["lm_head.weight"]]
    else:
        save_file(_source_tensors(source), source / shards[0])
    index.write_text(json.dumps(value))
    with pytest.raises(LoaderError, match=r"tensor gone is in no file|lm_head\.weight is in|is already in"):
        convert(source, tmp_path / "c")


def test_a_source_that_changes_meanwhile_gives_nothing(tmp_path: Path) -> None:
    source = _source(tmp_path / "source")
    with pytest.raises(CheckpointCorruptError, match=r"model\.safetensors: changed while it was being read"):
        convert(source, tmp_path / "c", on_progress=lambda *_: os.utime(source / "model.safetensors", ns=(1, 1)))
    assert not (tmp_path / "c").exists()


# Going on.


def test_a_canceled_conversion_goes_on_and_writes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, writes = _source(tmp_path / "source", num_mib=100), _WriteCount(monkeypatch)
    cancel = threading.Event()
    with pytest.raises(ConversionCanceledError):
        convert(
            source,
            tmp_path / "c",
            num_threads=1,
            cancel=cancel,
            on_progress=_after(40, cancel),
        )
    assert _names(tmp_path) == {"source", ".c.partial"}
    assert writes.count == 3
    manifest = convert(source, tmp_path / "c", num_threads=2)
    assert writes.count == 7
    assert _names(tmp_path) == {"source", "c"}
    assert verify(tmp_path / "c") == manifest
    assert convert(source, tmp_path / "other").digest == manifest.digest


def test_data_files_that_a_run_has_closed_to_writers_are_opened_again(tmp_path: Path) -> None:
    source, cancel = _source(tmp_path / "source", num_mib=40), threading.Event()
    with pytest.raises(ConversionCanceledError):
        convert(source, tmp_path / "c", num_threads=1, cancel=cancel, on_progress=_after(17, cancel))
    data = tmp_path / ".c.partial" / "checkpoint" / "partition_00000.bin"
    data.chmod(0o444)
    modes = []

    def note(done_bytes: int, total_bytes: int) -> None:
        del done_bytes, total_bytes
        # Root may write to it anyway, others may not.
        modes.append(data.stat().st_mode & 0o200)

    convert(source, tmp_path / "c", on_progress=note)
    assert modes[0]
    assert not (tmp_path / "c" / "partition_00000.bin").stat().st_mode & 0o222


def test_chunks_that_were_lost_are_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, writes, cancel = _source(tmp_path / "source", num_mib=40), _WriteCount(monkeypatch), threading.Event()
    with pytest.raises(ConversionCanceledError):
        convert(
            source,
            tmp_path / "c",
            num_threads=1,
            cancel=cancel,
            on_progress=_after(17, cancel),
        )
    assert writes.count == 2
    # As after a power cut: the record is there, the bytes are not.
    with (tmp_path / ".c.partial" / "checkpoint" / "partition_00000.bin").open("r+b") as file:
        file.write(bytes(4096))
    convert(source, tmp_path / "c")
    assert writes.count == 4
    verify(tmp_path / "c")


@pytest.mark.parametrize("what", ["source", "partitions", "record"])
def test_what_another_plan_has_left_is_not_used(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, writes, cancel = _source(tmp_path / "source", num_mib=20), _WriteCount(monkeypatch), threading.Event()
    cancel.set()
    with pytest.raises(ConversionCanceledError):
        convert(source, tmp_path / "c", cancel=cancel)
    late = threading.Event()
    with pytest.raises(ConversionCanceledError):
        convert(source, tmp_path / "c", num_threads=1, cancel=late, on_progress=lambda *_: late.set())
    assert writes.count == 1
    if what == "source":
        os.utime(source / "model.safetensors", ns=(1, 1))
    elif what == "record":
        (tmp_path / ".c.partial" / "progress").write_bytes(b"\xff" * 100)
    convert(source, tmp_path / "c", num_partitions=2 if what == "partitions" else 1)
    assert writes.count == 1 + 2
    verify(tmp_path / "c")


def test_a_state_dict_goes_on_as_well_but_trusts_only_what_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, cancel = _WriteCount(monkeypatch), threading.Event()
    tensors = {f"layers.{number}.w": torch.full((_MIB,), number, dtype=torch.uint8) for number in range(40)}
    with pytest.raises(ConversionCanceledError):
        convert(
            tensors,
            tmp_path / "c",
            num_threads=1,
            cancel=cancel,
            on_progress=_after(17, cancel),
        )
    assert writes.count == 2
    tensors["layers.17.w"][5] = 99
    convert(tensors, tmp_path / "c")
    assert writes.count == 4
    verify(tmp_path / "c")
    assert read_back(tmp_path / "c")["layers.17.w"][5] == 99


_CONVERT = """
import sys
from pathlib import Path
from loaders.writer.convert import convert
print(convert(Path(sys.argv[1]), Path(sys.argv[2]), num_threads=2, pack=True).digest)
"""


def test_killed_at_any_point_it_goes_on_to_the_identical_result(tmp_path: Path) -> None:
    source = tmp_path / "source"
    _source(source, num_mib=60)
    weights = (torch.randn(20, 1 << 18, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    save_file(
        {f"layers.{n}.w": weights[n].clone() for n in range(20)} | _source_tensors(source), source / "model.safetensors"
    )
    expected = convert(source, tmp_path / "expected", pack=True).digest
    command = [sys.executable, "-c", _CONVERT, source, tmp_path / "c"]
    record = tmp_path / ".c.partial" / "progress"
    seen = 0
    for wanted in (0, 2, 4):
        process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            lines = record.read_bytes().count(b"\n") if record.exists() else 0
            if lines > wanted:
                break
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not (tmp_path / "c").exists():
            now = record.read_bytes().count(b"\n")
            assert now >= seen
            seen = now
    result = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == expected
    assert verify(tmp_path / "c").digest == expected
    assert _names(tmp_path) == {"source", "expected", "c"}


def test_killed_between_publishing_and_tidying_up_the_next_run_tidies_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _source(tmp_path / "source")
    with monkeypatch.context() as patched:
        patched.setattr(work.WorkFolder, "discard", lambda self: None)
        convert(source, tmp_path / "c")
    assert _names(tmp_path) == {"source", "c", ".c.partial"}
    convert(source, tmp_path / "c")
    assert _names(tmp_path) == {"source", "c"}


# Disks.


class _FailingSystem:
    """The module `os`, of which one function fails at its n-th call."""

    def __init__(self, function: str, call: int, error: int) -> None:
        self.num_calls = 0
        self._function, self._call, self._error = function, call, error

    def __getattr__(self, name: str) -> object:
        original = getattr(os, name)
        if name != self._function:
            return original

        def failing(*arguments: object, **keywords: object) -> object:
            self.num_calls += 1
            if self.num_calls == self._call:
                raise OSError(self._error, os.strerror(self._error))
            return original(*arguments, **keywords)

        return failing


@pytest.fixture
def on_disk(tmp_path: Path) -> SimpleNamespace:
    """A source of two chunks, and what it is to become."""
    source = _source(tmp_path / "source", num_mib=20)
    return SimpleNamespace(source=source, destination=tmp_path / "c", before=_contents(source))


def _failure_of(call: Callable[[], object]) -> LoaderError | None:
    try:
        call()
    except LoaderError as failure:
        return failure
    return None


@pytest.mark.parametrize("error", [5, 28, 122], ids=["EIO", "ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("function", ["open", "ftruncate", "posix_fallocate", "pwrite", "fsync", "statvfs", "write"])
def test_a_disk_that_fails_at_any_call_leaves_nothing_visible_and_names_the_file(
    on_disk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, function: str, error: int
) -> None:
    kind = StorageError if error == 5 else DiskFullError
    call = 1
    while True:
        system = _FailingSystem(function, call, error)
        with monkeypatch.context() as patched:
            for module in (disk, work, sys.modules["loaders.writer.progress"]):
                patched.setattr(module, "os", system)
            failure = _failure_of(lambda: convert(on_disk.source, on_disk.destination, num_threads=1))
        assert failure is None or (type(failure) is kind and str(on_disk.destination.parent) in str(failure)), failure
        if system.num_calls < call:
            break
        if on_disk.destination.exists():
            # The last fsync is that of the parent, when the checkpoint is in its place: it is whole.
            verify(on_disk.destination)
            break
        call += 1
    assert call > 1
    assert convert(on_disk.source, on_disk.destination).digest == verify(on_disk.destination).digest
    assert _contents(on_disk.source) == on_disk.before


def test_a_source_that_cannot_be_read_is_named(on_disk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", _FailingSystem("preadv", 2, 5))
    with pytest.raises(StorageError, match=r"model.safetensors: reading at byte \d+: Input/output error"):
        convert(on_disk.source, on_disk.destination, num_threads=1)
    assert not on_disk.destination.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB; without root there is none, and its tests say so."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", mount], check=False, capture_output=True)
    if made.returncode:
        pytest.skip(
            f"NO SMALL DISK: only root can mount a tmpfs ({made.stderr.decode().strip()}); full disks are not tried"
        )
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_too_small_a_disk_is_refused_before_anything_is_written(tmp_path: Path, small_disk: Path) -> None:
    source = _source(tmp_path / "source", num_mib=60)
    with pytest.raises(DiskFullError, match=r"\d+ bytes are needed, \d+ are free"):
        convert(source, small_disk / "c")
    assert not (small_disk / "c").exists()
    assert sum(path.stat().st_blocks for path in small_disk.rglob("*") if path.is_file()) < 100


def test_a_disk_that_fills_up_meanwhile_is_reported_and_room_is_enough_to_go_on(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _source(tmp_path / "source", num_mib=20)
    with monkeypatch.context() as patched:
        # The check passes, then somebody else takes the room.
        patched.setattr(work, "check_room", lambda *_: (small_disk / "else").write_bytes(bytes(40 * _MIB)))
        with pytest.raises(DiskFullError, match=r"partition_00000\.bin: No space left on device"):
            convert(source, small_disk / "c")
    assert _names(small_disk) == {"else", ".c.partial"}
    (small_disk / "else").unlink()
    manifest = convert(source, small_disk / "c")
    assert verify(small_disk / "c") == manifest
    assert _names(small_disk) == {"c"}


def test_without_direct_io_it_works_through_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _source(tmp_path / "source", num_mib=20)
    expected = convert(source, tmp_path / "direct").digest

    class NoDirect(_FailingSystem):
        def __getattr__(self, name: str) -> object:
            return 0 if name == "O_DIRECT" else getattr(os, name)

    with monkeypatch.context() as patched:
        patched.setattr(disk, "os", NoDirect("", 0, 0))
        assert convert(source, tmp_path / "buffered").digest == expected
    with monkeypatch.context() as patched:
        # Some file systems take the flag and refuse the write. The first write is that of the record.
        patched.setattr(disk, "os", _FailingSystem("pwrite", 2, 22))
        assert convert(source, tmp_path / "refused", num_threads=1).digest == expected
    verify(tmp_path / "buffered")
    verify(tmp_path / "refused")


_PEAK = """
import resource, sys
from pathlib import Path
from loaders.writer.convert import convert

def resident(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) >> 10

before = resident("VmRSS")
convert(Path(sys.argv[1]), Path(sys.argv[2]), num_threads=2)
print(resident("VmHWM") - before)
"""


def test_memory_is_bounded_by_a_chunk_per_thread_whatever_the_size(tmp_path: Path) -> None:
    source = _source(tmp_path / "source", num_mib=200)
    result = subprocess.run(
        [sys.executable, "-c", _PEAK, source, tmp_path / "c"], cwd=_ROOT, check=True, capture_output=True, text=True
    )
    assert int(result.stdout) < 2 * 16 + 24


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    source = _source(tmp_path / "source")
    convert(source, tmp_path / "warm_up")
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    convert(source, tmp_path / "c")
    convert(source, tmp_path / "c")
    with pytest.raises(CheckpointExistsError):
        convert({"a": torch.ones(1)}, tmp_path / "c")
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before
