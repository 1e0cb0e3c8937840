"""An import ends as a checkpoint of our format, from wherever and in whichever form it comes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from loaders.errors import CheckpointUnsupportedError, LoadCanceledError
from loaders.format.manifest import Manifest
from loaders.format.validate import open_checkpoint
from loaders.format.verify import verify
from loaders.remote.importing import Conversion, Stage, import_checkpoint
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
