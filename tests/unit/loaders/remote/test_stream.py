"""A stream is a load: the same tensors, of use as they arrive, in the pool for others, on the SSD if that is wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from loaders.checkpoint import load
from loaders.devices.cpu_image import CpuImage
from loaders.devices.loaded import LoadedFrom
from loaders.errors import CheckpointCorruptError, LoadCanceledError, RemoteChangedError
from loaders.format.geometry import CHUNK_BYTES
from loaders.format.verify import verify
from loaders.memory.mapping import Mapping
from loaders.memory.pool import Pool
from loaders.reading.chunk_memory import PrivateMemory
from loaders.reading.pipeline import Pipeline
from loaders.remote.download import download
from loaders.remote.source import open_remote
from loaders.remote.stream import stream
from loaders.remote.url import parse_url
from scripts.demo_checkpoints import make_tiny
from tests.support.file_server import FileServer
from tests.support.processes import wait_until
from tests.support.remote import QUICK, same_files, serve

DEADLINE_S = 30.0


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """A pool with room for one of the checkpoints."""
    with Pool.open(tmp_path / "pool", 8 * CHUNK_BYTES) as opened:
        yield opened


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("form", ["plain_checkpoint", "converted_checkpoint"])
def test_a_stream_brings_the_tensors_of_a_load(
    server: FileServer, request: pytest.FixtureRequest, form: str, has_ranges: bool
) -> None:
    source: Path = request.getfixturevalue(form)
    serve(server, source)
    server.has_ranges = has_ranges
    with stream(server.url) as streamed, load(source) as loaded:
        assert _equal(dict(streamed.tensors), dict(loaded.tensors))
        assert streamed.report.loaded_from is LoadedFrom.REMOTE


def test_a_model_that_was_streamed_computes_what_the_stored_one_does(server: FileServer) -> None:
    make_tiny(server.root)
    expected = AutoModelForCausalLM.from_pretrained(server.root, dtype="auto").eval()
    ids = torch.arange(12)[None]
    with stream(server.url, with_model=True) as streamed, torch.inference_mode():
        assert torch.equal(streamed.model()(ids).logits, expected(ids).logits)


class _Watching:
    """A sink that tells when the bytes of the first tensor are there."""

    def __init__(self, image: CpuImage, name: str, last_byte: int, ready: threading.Event) -> None:
        self._image = image
        self._tensor = image.tensors()[name]
        self._missing = set(range(last_byte // CHUNK_BYTES + 1))
        self._ready = ready
        self.seen: torch.Tensor | None = None

    def accept(self, index: int, memory: memoryview) -> None:
        self._image.accept(index, memory)
        self._missing.discard(index)
        if not self._missing and self.seen is None:
            self.seen = self._tensor.clone()
            self._ready.set()

    def poll(self) -> None:
        """Nothing is under way."""


def test_a_tensor_is_of_use_before_the_last_byte_has_left_the_server(
    server: FileServer, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    ready = threading.Event()
    waited: list[bool] = []
    last = (converted_checkpoint / "partition_00000.bin").stat().st_size // CHUNK_BYTES * CHUNK_BYTES

    def hold_back_the_last_chunk(name: str, begin: int) -> None:
        del name
        if begin == last:
            waited.append(ready.wait(DEADLINE_S))

    server.before_range = hold_back_the_last_chunk
    with open_remote(parse_url(server.url)) as remote, load(converted_checkpoint) as expected:
        plan = remote.source.plan
        name, stored = min(plan.tensors.items(), key=lambda item: item[1].offset)
        mapping = Mapping.anonymous(plan.image_bytes)
        sink = _Watching(CpuImage(plan, mapping), name, stored.offset + stored.num_bytes - 1, ready)
        Pipeline(plan, PrivateMemory(mapping, CHUNK_BYTES), sink, options=remote.read_options(8)).run()
        assert waited == [True]
        assert sink.seen is not None
        assert torch.equal(sink.seen, expected.tensors[name])


def test_what_a_stream_brings_into_the_pool_no_load_reads_again(
    server: FileServer, pool: Pool, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    with stream(server.url, pool=pool) as streamed:
        assert streamed.report.read_bytes == streamed.report.num_bytes
    server.sent_bytes.clear()
    with load(converted_checkpoint, pool=pool) as loaded:
        assert loaded.report.loaded_from is LoadedFrom.POOL
    with stream(server.url, pool=pool) as streamed:
        assert streamed.report.loaded_from is LoadedFrom.POOL
    assert server.sent_of(".bin") < 1024


@pytest.mark.parametrize("form", ["plain_checkpoint", "converted_checkpoint"])
def test_a_stream_leaves_the_checkpoint_at_its_destination(
    server: FileServer, tmp_path: Path, pool: Pool, request: pytest.FixtureRequest, form: str
) -> None:
    source: Path = request.getfixturevalue(form)
    serve(server, source)
    with stream(server.url, pool=pool, destination=tmp_path / "there") as streamed, load(source) as loaded:
        assert _equal(dict(streamed.tensors), dict(loaded.tensors))
    assert same_files(source, tmp_path / "there")
    assert server.sent_of(".bin") + server.sent_of(".safetensors") < 1.01 * streamed.report.num_bytes


def test_what_the_pool_has_already_still_gets_to_the_destination(
    server: FileServer, tmp_path: Path, pool: Pool, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    with load(converted_checkpoint, pool=pool), stream(server.url, pool=pool, destination=tmp_path / "there"):
        verify(tmp_path / "there")


def test_a_stream_goes_on_with_what_a_download_has_left(
    server: FileServer, tmp_path: Path, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    with pytest.raises(LoadCanceledError):
        download(server.url, tmp_path / "there", num_connections=1, cancel=_After(server, 2 * CHUNK_BYTES))
    server.requests.clear()
    with stream(server.url, destination=tmp_path / "there") as streamed:
        asked_for = sum(num_bytes for name, _, num_bytes in server.requests if name.endswith(".bin"))
        assert asked_for < streamed.report.num_bytes - 2 * CHUNK_BYTES + 1024
    verify(tmp_path / "there")


class _After:
    """Cancels when the server is asked for what lies behind so much."""

    def __init__(self, server: FileServer, num_bytes: int) -> None:
        self._server = server
        self._num_bytes = num_bytes

    def is_set(self) -> bool:
        return any(begin >= self._num_bytes for _, begin, _ in self._server.requests)


def test_wrong_bytes_never_stay_in_the_pool(server: FileServer, pool: Pool, converted_checkpoint: Path) -> None:
    serve(server, converted_checkpoint)
    server.wrong_bodies["partition_00000.bin"] = 1000
    with pytest.raises(CheckpointCorruptError):
        stream(server.url, pool=pool, policy=QUICK)
    server.wrong_bodies.clear()
    with stream(server.url, pool=pool) as streamed, load(converted_checkpoint) as loaded:
        assert _equal(dict(streamed.tensors), dict(loaded.tensors))


def test_a_mixture_of_two_versions_never_stays_in_the_pool(
    server: FileServer, pool: Pool, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    name = "model-00001-of-00002.safetensors"
    server.before_range = lambda asked, begin: (
        (server.root / name).touch() if asked == name and begin == CHUNK_BYTES else None
    )
    with pytest.raises(RemoteChangedError, match=name):
        stream(server.url, pool=pool, policy=QUICK)
    wait_until(lambda: pool.usage.leased_bytes == 0, "leases go back", DEADLINE_S)
    assert pool.contents() == ()
