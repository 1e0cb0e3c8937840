"""A node's checkpoints are complete or not there, and named by what they hold."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.node_agent import store as store_module
from sllm_tasks.node_agent.store import CheckpointStore, digest_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store")


def test_only_the_files_of_a_checkpoint_are_copied(store: CheckpointStore, source: Path) -> None:
    digest = store.import_directory(source, lambda _: None)
    names = {path.name for path in store.path(digest).iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "manifest.json"}


def _bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


NOT_REGULAR: dict[str, tuple[Callable[[Path], None], str]] = {
    "a FIFO": (os.mkfifo, "a FIFO"),
    "a socket": (_bind_socket, "a socket"),
    "a directory": (Path.mkdir, "a directory"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "a broken link": (lambda path: path.symlink_to("nowhere"), "not there"),
    "a circle of links": (lambda path: path.symlink_to(path), "cannot be read"),
}


@pytest.mark.parametrize("case", NOT_REGULAR)
@pytest.mark.parametrize("name", ["tokenizer.json", "more.safetensors"])
def test_what_is_not_a_regular_file_is_refused_at_once(
    store: CheckpointStore, source: Path, case: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, said = NOT_REGULAR[case]
    (source / name).unlink(missing_ok=True)
    # A socket's path must be short.
    monkeypatch.chdir(source)
    make(Path(name))
    with pytest.raises(ModelUnusableError, match=said) as caught:
        store.import_directory(source, lambda _: None)
    assert (caught.value.code, name in str(caught.value)) == (ErrorCode.CHECKPOINT_CORRUPT, True)
    assert store.digests() == frozenset()


def test_links_to_files_are_followed_as_in_a_cache(store: CheckpointStore, source: Path, tmp_path: Path) -> None:
    expected = store.import_directory(source, lambda _: None)
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in source.iterdir():
        (linked / path.name).symlink_to(path)
    assert store.import_directory(linked, lambda _: None) == expected


def test_the_same_content_has_the_same_digest_and_is_kept_once(store: CheckpointStore, source: Path) -> None:
    first = store.import_directory(source, lambda _: None)
    assert store.import_directory(source, lambda _: None) == first
    assert store.digests() == {first}
    (source / "model.safetensors").write_bytes(b"others")
    assert store.import_directory(source, lambda _: None) != first


def test_progress_ends_at_the_size_of_what_was_copied(store: CheckpointStore, source: Path) -> None:
    seen: list[int] = []
    store.import_directory(source, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(b"weights" * 1000) + 2 * len("{}")


def test_an_import_that_breaks_off_leaves_nothing(store: CheckpointStore, source: Path, tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise RuntimeError("the process is told to stop")

    with pytest.raises(RuntimeError):
        store.import_directory(source, stop)
    assert list((tmp_path / "store").iterdir()) == []


def test_what_a_killed_process_left_half_done_is_gone_at_the_next_start(store: CheckpointStore, tmp_path: Path) -> None:
    del store
    leftover = tmp_path / "store" / ".partial-import_x"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert CheckpointStore(tmp_path / "store").digests() == frozenset()
    assert not leftover.exists()


def test_a_directory_that_is_not_here_is_missing(store: CheckpointStore, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusableError, match="no directory") as caught:
        store.import_directory(tmp_path / "nowhere", lambda _: None)
    assert caught.value.code is ErrorCode.CHECKPOINT_MISSING


def test_a_checkpoint_larger_than_the_free_space_is_refused_before_a_byte_is_copied(
    store: CheckpointStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=50))
    with pytest.raises(ModelUnusableError, match="50 are free") as caught:
        store.import_directory(source, lambda _: None)
    assert caught.value.code is ErrorCode.DISK_FULL
    assert store.digests() == frozenset()


@pytest.mark.parametrize("digest", ["..", "../source", "a" * 63, "A" * 64, ""])
def test_a_path_never_comes_from_a_message(store: CheckpointStore, digest: str) -> None:
    with pytest.raises(ModelUnusableError):
        store.path(digest)
    store.delete(digest)


def test_a_deleted_checkpoint_is_gone_and_deleting_it_again_does_nothing(store: CheckpointStore, source: Path) -> None:
    digest = store.import_directory(source, lambda _: None)
    store.delete(digest)
    store.delete(digest)
    assert store.digests() == frozenset()


def test_the_digest_depends_on_names_and_contents_and_not_on_their_order() -> None:
    assert digest_of({"a": "1", "b": "2"}) == digest_of({"b": "2", "a": "1"})
    assert digest_of({"a": "1", "b": "2"}) != digest_of({"a": "2", "b": "1"})
