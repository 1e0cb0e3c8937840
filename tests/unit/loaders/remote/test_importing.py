"""An import ends as a checkpoint of our format, from wherever and in whichever form it comes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from loaders.errors import CheckpointUnsupportedError, LoadCanceledError
from loaders.format.manifest import Manifest
from loaders.format.validate import open_checkpoint
from loaders.format.verify import verify
from loaders.remote.importing import Conversion, Stage, import_checkpoint
from loaders.writer.convert import convert
from tests.support.file_server import FileServer
from tests.support.remote import serve


def _manifest(path: Path) -> Manifest:
    with open_checkpoint(path) as opened:
        return opened.manifest


@pytest.mark.parametrize("form", ["plain_checkpoint", "converted_checkpoint"])
@pytest.mark.parametrize("by_url", [True, False])
def test_every_source_ends_as_the_same_checkpoint(
    server: FileServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    converted_checkpoint: Path,
    form: str,
    by_url: bool,
) -> None:
    path: Path = request.getfixturevalue(form)
    serve(server, path)
    stages: set[Stage] = set()
    source = server.url if by_url else str(path)
    imported = import_checkpoint(source, tmp_path / "there", on_progress=lambda stage, done, total: stages.add(stage))
    assert verify(tmp_path / "there").digest == imported.digest == _manifest(converted_checkpoint).digest
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["served", "there"]
    expected = {Stage.DOWNLOAD} if by_url else {Stage.COPY}
    assert stages == (expected if form == "converted_checkpoint" else expected - {Stage.COPY} | {Stage.CONVERT})


def test_the_manifest_says_where_a_download_came_from_and_no_secret(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    url = server.url.replace("://", "://user:hidden@") + "/?key=hidden"
    import_checkpoint(url, tmp_path / "there", conversion=Conversion(num_partitions=2))
    assert _manifest(tmp_path / "there").source == server.url
    assert len(_manifest(tmp_path / "there").content.partitions) == 2


def test_a_conversion_is_not_asked_of_what_is_converted(tmp_path: Path, converted_checkpoint: Path) -> None:
    for source in (str(converted_checkpoint), converted_checkpoint.as_uri()):
        with pytest.raises(CheckpointUnsupportedError, match="converted already"):
            import_checkpoint(source, tmp_path / "there", conversion=Conversion(num_partitions=2))
    assert list(tmp_path.iterdir()) == []


def test_an_import_that_was_canceled_goes_on(server: FileServer, tmp_path: Path, plain_checkpoint: Path) -> None:
    serve(server, plain_checkpoint)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(LoadCanceledError):
        import_checkpoint(server.url, tmp_path / "there", cancel=cancel)
    import_checkpoint(server.url, tmp_path / "there")
    verify(tmp_path / "there")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["served", "there"]


def test_what_is_replaced_while_it_is_imported_is_not_taken_for_what_it_was(
    server: FileServer, tmp_path: Path, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    newer = tmp_path / "newer"
    convert({"w": torch.randn(6_000_000, generator=torch.Generator().manual_seed(1))}, newer)
    replaced: list[str] = []

    def replace_once(name: str, begin: int) -> None:
        if begin and not replaced:
            replaced.append(name)
            server.root = newer

    server.before_range = replace_once
    imported = import_checkpoint(server.url, tmp_path / "there")
    assert replaced
    assert imported.digest == verify(tmp_path / "there").digest == _manifest(newer).digest


def test_an_import_from_a_server_that_tells_no_versions_leaves_at_most_one_copy_behind(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    server.has_versions = False
    for _ in range(2):
        cancel = threading.Event()
        server.before_range = lambda name, begin, cancel=cancel: cancel.set() if begin else None
        with pytest.raises(LoadCanceledError):
            import_checkpoint(server.url, tmp_path / "there", cancel=cancel)
    assert len(list(tmp_path.iterdir())) <= 2
    server.before_range = None
    import_checkpoint(server.url, tmp_path / "there")
    verify(tmp_path / "there")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["served", "there"]
