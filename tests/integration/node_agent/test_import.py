"""A checkpoint is checked and written into the store in our format by a process of its own, or refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loaders.errors import CheckpointCorruptError, LoaderError
from loaders.format.verify import verify
from loaders.writer.convert import convert
from scripts.demo_checkpoints import make_tiny
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.node_agent.apart import import_checkpoint
from sllm_tasks.node_agent.apart.link import code_of
from sllm_tasks.node_agent.apart.process import Work, WorkCanceledError, work_apart
from sllm_tasks.node_agent.store import CheckpointStore
from tests.integration.node_agent.conftest import Nursery, Watch
from tests.support.file_server import FileServer


def import_apart(
    source: Path | str, store: CheckpointStore, nursery: Nursery | None, watch: Watch | None = None
) -> dict[str, Any]:
    return work_apart(Work.IMPORT, request(source, store), watch or Watch(), nursery.path if nursery else None)


def request(source: Path | str, store: CheckpointStore, num_gpus: int = 1) -> dict[str, Any]:
    return {"source": str(source), "destination": str(store.finished("import")), "num_gpus": num_gpus}


class GenerousLink:
    """The wire to an agent that grants everything."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        pass

    def ask_room(self, num_bytes: int) -> None:
        pass


def change_config(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **values}))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def truncate_weights(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def instead_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        make(path / name)

    return replace


def bind_socket(path: Path) -> None:
    # A socket's path must be short.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


BROKEN: dict[str, tuple[Callable[[Path], None], ErrorCode, str]] = {
    "no config": (remove("config.json"), ErrorCode.CHECKPOINT_CORRUPT, "config.json"),
    "a FIFO": (instead_of("generation_config.json", os.mkfifo), ErrorCode.CHECKPOINT_CORRUPT, "not a regular file"),
    "weights in a FIFO": (instead_of("model.safetensors", os.mkfifo), ErrorCode.CHECKPOINT_CORRUPT, "safetensors"),
    "a socket": (instead_of("tokenizer.json", bind_socket), ErrorCode.CHECKPOINT_CORRUPT, "tokenizer.json"),
    "a directory": (instead_of("tokenizer.json", Path.mkdir), ErrorCode.CHECKPOINT_CORRUPT, "tokenizer.json"),
    "a link to a device": (
        instead_of("tokenizer.json", lambda path: path.symlink_to("/dev/zero")),
        ErrorCode.CHECKPOINT_CORRUPT,
        "not a regular file",
    ),
    "no weights": (remove("model.safetensors"), ErrorCode.CHECKPOINT_CORRUPT, "safetensors"),
    "no tokenizer": (remove("tokenizer.json"), ErrorCode.TOKENIZER_MISSING, "tokenizer.json"),
    "truncated weights": (truncate_weights, ErrorCode.CHECKPOINT_CORRUPT, "model.safetensors"),
    "wrong shapes": (change_config(intermediate_size=97), ErrorCode.CHECKPOINT_CORRUPT, "mlp"),
    "missing tensors": (change_config(num_hidden_layers=3), ErrorCode.CHECKPOINT_CORRUPT, "layers.2"),
    "unknown architecture": (
        change_config(model_type="quantum", architectures=["QuantumForCausalLM"]),
        ErrorCode.CHECKPOINT_UNSUPPORTED,
        "quantum",
    ),
    "remote code": (
        change_config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
        ErrorCode.CHECKPOINT_UNSUPPORTED,
        "auto_map",
    ),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "tiny")


def test_a_sound_checkpoint_is_described_and_converted(source: Path, store: CheckpointStore, nursery: Nursery) -> None:
    watch = Watch()
    result = import_apart(source, store, nursery, watch)
    assert result["architecture"] == "LlamaForCausalLM"
    assert json.loads(result["files"]["tokenizer"])
    manifest = verify(store.finished("import"))
    assert (result["digest"], result["num_partitions"]) == (manifest.digest, 1)
    assert watch.progress[-1] == (manifest.num_bytes, manifest.num_bytes)
    assert len(watch.asked) == 1
    assert watch.asked[0] >= manifest.num_bytes


@pytest.mark.parametrize("converted", [False, True])
def test_each_gpu_gets_a_partition_and_its_share_is_told(
    source: Path, store: CheckpointStore, tmp_path: Path, nursery: Nursery, *, converted: bool
) -> None:
    convert(source, tmp_path / "converted")
    result = import_checkpoint.run(
        request(tmp_path / "converted" if converted else source, store, num_gpus=2), GenerousLink()
    )
    # What is in our format already stays as it is; loads divide it.
    assert result["num_partitions"] == (1 if converted else 2)
    shares = result["gpu_shares"]
    assert sum(share["weights_bytes"] for share in shares) == result["weights_bytes"]
    assert [share["num_layers"] for share in shares] == [1, 1]
    assert max(share["weights_bytes"] for share in shares) < 0.7 * result["weights_bytes"]


def test_a_url_is_converted_for_as_many_gpus_as_a_directory_is(
    source: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    expected = convert(source, tmp_path / "expected", num_partitions=2).digest
    with FileServer(tmp_path) as server:
        result = import_checkpoint.run(request(f"{server.url}/{source.name}", store, num_gpus=2), GenerousLink())
    assert (result["digest"], result["num_partitions"]) == (expected, 2)


@pytest.mark.parametrize("converted", [False, True])
def test_a_checkpoint_behind_a_url_becomes_the_same_as_one_in_a_directory(
    source: Path, store: CheckpointStore, tmp_path: Path, nursery: Nursery, *, converted: bool
) -> None:
    expected = convert(source, tmp_path / "converted").digest
    watch = Watch()
    with FileServer(tmp_path) as server:
        url = f"{server.url}/{'converted' if converted else source.name}"
        result = import_apart(url, store, nursery, watch)
    manifest = verify(store.finished("import"))
    assert result["architecture"] == "LlamaForCausalLM"
    assert result["digest"] == manifest.digest
    assert manifest.digest == expected or not converted
    assert watch.progress[-1][0] == watch.progress[-1][1]
    assert len(watch.asked) == 1
    assert watch.asked[0] >= manifest.num_bytes * (1 if converted else 2)
    assert store.aside() == [store.finished("import")]


def test_what_a_server_refuses_is_named_and_leaves_nothing(
    store: CheckpointStore, tmp_path: Path, nursery: Nursery
) -> None:
    with FileServer(tmp_path) as server, pytest.raises(ModelUnusableError, match="nothing-here"):
        import_apart(f"{server.url}/nothing-here", store, nursery)
    assert store.aside() == []


def test_what_grows_from_a_url_is_known_by_its_name_and_never_cleared_away_meanwhile(store: CheckpointStore) -> None:
    for name in (".import.partial", ".import.download", ".import.source-0123", "..import.source-0123.download"):
        assert store.work_name(store.work / name) == "import"


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_is_refused_with_its_reason(source: Path, store: CheckpointStore, case: str) -> None:
    breaking, code, named = BROKEN[case]
    breaking(source)
    # In this process: what one of its own costs is the imports.
    with pytest.raises(LoaderError) as caught:
        import_checkpoint.run(request(source, store), GenerousLink())
    assert (code_of(caught.value), named in str(caught.value)) == (code, True), str(caught.value)
    assert store.aside() == []


def test_a_refusal_keeps_its_code_on_the_way_to_the_agent(
    source: Path, store: CheckpointStore, nursery: Nursery
) -> None:
    remove("tokenizer.json")(source)
    with pytest.raises(ModelUnusableError, match=r"tokenizer\.json") as caught:
        import_apart(source, store, nursery)
    assert caught.value.code is ErrorCode.TOKENIZER_MISSING


def import_here(source: Path, store: CheckpointStore) -> str:
    return str(import_checkpoint.run(request(source, store), GenerousLink())["digest"])


def test_links_to_files_are_followed_as_in_a_cache(source: Path, store: CheckpointStore, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in source.iterdir():
        (linked / path.name).symlink_to(path)
    assert import_here(linked, store) == import_here(source, store)


def test_a_checkpoint_in_our_format_is_verified_and_copied(
    source: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    converted = tmp_path / "converted"
    digest = convert(source, converted).digest
    assert import_here(converted, store) == digest
    assert verify(store.finished("import")).digest == digest
    partition = converted / "partition_00000.bin"
    content = bytearray(partition.read_bytes())
    content[1000] ^= 1
    partition.write_bytes(content)
    with pytest.raises(CheckpointCorruptError, match="digest"):
        import_here(converted, store)


def test_where_there_is_no_room_nothing_is_written(source: Path, store: CheckpointStore, nursery: Nursery) -> None:
    with pytest.raises(ModelUnusableError, match="no room"):
        import_apart(source, store, nursery, Watch(limit_bytes=1000))
    assert store.aside() == []


def test_what_an_import_of_an_earlier_state_of_the_source_left_makes_way(source: Path, store: CheckpointStore) -> None:
    first = import_here(source, store)
    make_tiny(source, seed=1)
    assert import_here(source, store) != first


@pytest.mark.parametrize("is_converted", [False, True])
def test_what_an_import_of_an_earlier_state_of_a_url_left_makes_way(
    source: Path, store: CheckpointStore, nursery: Nursery, tmp_path: Path, is_converted: bool
) -> None:
    served, earlier = tmp_path / "web" / "tiny", make_tiny(tmp_path / "earlier")
    change_config(rms_norm_eps=0.5)(earlier)
    with FileServer(tmp_path / "web") as server:
        digests = []
        for path in (earlier, source):
            shutil.rmtree(served, ignore_errors=True)
            if is_converted:
                served.parent.mkdir(exist_ok=True)
                convert(path, served)
            else:
                shutil.copytree(path, served)
            digests.append(import_apart(f"{server.url}/tiny", store, nursery)["digest"])
    assert digests[1] == verify(store.finished("import")).digest != digests[0]


def test_an_import_that_was_killed_goes_on_where_it_stopped(
    source: Path, store: CheckpointStore, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLLM_FAILPOINTS", "import.chunk=kill9@1")
    with pytest.raises(ModelUnusableError, match="died with status -9"):
        import_apart(source, store, None)
    (left,) = store.aside()
    begun_at = (left / "progress").read_text().split()[2]
    monkeypatch.delenv("SLLM_FAILPOINTS")
    import_apart(source, store, nursery)
    assert verify(store.finished("import")).created_at == begun_at


def test_a_canceled_import_ends_at_once(source: Path, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLLM_FAILPOINTS", "import.chunk=sleep:60000")
    with pytest.raises(WorkCanceledError):
        import_apart(source, store, None, Watch(canceled_at=0))
