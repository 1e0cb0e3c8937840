"""A download is the whole checkpoint, checked, whatever the server and the network do; or it is nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loaders.errors import (
    CheckpointCorruptError,
    CheckpointExistsError,
    CheckpointMissingError,
    ConversionBusyError,
    DiskFullError,
    LoadCanceledError,
    RemoteChangedError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
)
from loaders.format.geometry import CHUNK_BYTES
from loaders.format.verify import verify
from loaders.remote.download import download
from loaders.source import open_source
from tests.support.file_server import FileServer
from tests.support.processes import wait_until
from tests.support.remote import QUICK, same_files, serve

PARTITION = "partition_00000.bin"
FIRST, SECOND = (f"model-{number:05d}-of-00002.safetensors" for number in (1, 2))
DEADLINE_S = 30.0


def leftovers(destination: Path) -> list[str]:
    """What is beside a destination."""
    return sorted(path.name for path in destination.parent.iterdir() if path.name not in {"served", destination.name})


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("form", ["plain_checkpoint", "converted_checkpoint"])
def test_a_download_is_the_checkpoint_file_by_file(
    server: FileServer, tmp_path: Path, request: pytest.FixtureRequest, form: str, has_ranges: bool
) -> None:
    source: Path = request.getfixturevalue(form)
    serve(server, source)
    server.has_ranges = has_ranges
    seen: list[tuple[int, int]] = []
    report = download(server.url, tmp_path / "there", on_progress=lambda *both: seen.append(both))
    assert same_files(source, tmp_path / "there")
    assert leftovers(tmp_path / "there") == []
    assert seen[-1] == (report.num_bytes, report.num_bytes)
    assert report.num_bytes <= report.received_bytes < 1.01 * report.num_bytes
    with open_source(tmp_path / "there") as opened:
        assert opened.plan.num_bytes == report.num_bytes


def test_data_files_are_for_reading_only(server: FileServer, tmp_path: Path, converted_checkpoint: Path) -> None:
    serve(server, converted_checkpoint)
    download(server.url, tmp_path / "there")
    assert (tmp_path / "there" / PARTITION).stat().st_mode & 0o777 == 0o444
    verify(tmp_path / "there")


def test_a_directory_of_this_machine_is_downloaded_as_well(tmp_path: Path, plain_checkpoint: Path) -> None:
    download(plain_checkpoint.as_uri(), tmp_path / "there")
    assert same_files(plain_checkpoint, tmp_path / "there")


def test_a_connection_that_breaks_off_again_and_again_costs_no_byte_twice(
    server: FileServer, tmp_path: Path, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    server.break_off_after = 7 << 20
    report = download(server.url, tmp_path / "there", policy=QUICK)
    assert same_files(converted_checkpoint, tmp_path / "there")
    assert report.received_bytes < 1.01 * report.num_bytes


def test_a_server_that_is_out_of_order_for_a_while_is_asked_again(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    server.failures = {FIRST: (2, 503), "model.safetensors.index.json": (2, 429), SECOND: (1, 500)}
    download(server.url, tmp_path / "there", policy=QUICK)
    assert same_files(plain_checkpoint, tmp_path / "there")


def test_wrong_bytes_are_fetched_again(server: FileServer, tmp_path: Path, converted_checkpoint: Path) -> None:
    serve(server, converted_checkpoint)
    server.wrong_bodies[PARTITION] = 1
    report = download(server.url, tmp_path / "there")
    verify(tmp_path / "there")
    assert report.received_bytes > report.num_bytes + CHUNK_BYTES // 2


def test_bytes_that_stay_wrong_are_never_published(
    server: FileServer, tmp_path: Path, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    server.wrong_bodies[PARTITION] = 1000
    with pytest.raises(CheckpointCorruptError, match=f"{PARTITION}: chunk at byte .* expected"):
        download(server.url, tmp_path / "there", policy=QUICK)
    assert not (tmp_path / "there").exists()
    server.wrong_bodies.clear()
    download(server.url, tmp_path / "there")
    verify(tmp_path / "there")


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, CheckpointMissingError, f"{SECOND}: the server answers 404: no such file"),
        (403, RemoteRefusedError, f"{SECOND}: the server answers 403: access refused"),
        (401, RemoteRefusedError, "401"),
        (400, RemoteError, "400"),
        (503, RemoteUnavailableError, "503"),
    ],
)
def test_a_refusal_names_the_file_and_leaves_nothing_at_the_destination(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path, status: int, error: type[Exception], message: str
) -> None:
    serve(server, plain_checkpoint)
    server.failures = {SECOND: (1000, status)}
    with pytest.raises(error, match=message):
        download(server.url, tmp_path / "there", policy=QUICK)
    assert not (tmp_path / "there").exists()


def test_an_empty_server_is_told_from_a_checkpoint(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissingError, match=r"expected one of tensor_index\.json, model\.safetensors"):
        download(server.url, tmp_path / "there", policy=QUICK)


def test_messages_never_show_what_is_secret_in_the_url(server: FileServer, tmp_path: Path) -> None:
    url = server.url.replace("://", "://user:hidden@") + "/?key=hidden"
    server.failures = {"adapter_model.safetensors": (1000, 403)}
    with pytest.raises(RemoteRefusedError) as caught:
        download(url, tmp_path / "there", policy=QUICK)
    assert "hidden" not in str(caught.value)
    assert server.headers[-1]["Authorization"] == "Basic dXNlcjpoaWRkZW4="


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RemoteUnavailableError, match=r"http://127\.0\.0\.1:1/tensor_index\.json: no connection"):
        download("http://127.0.0.1:1", tmp_path / "there", policy=QUICK)


def test_redirects_are_followed_without_the_password(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path
) -> None:
    other_root = tmp_path / "served-too"
    shutil.copytree(plain_checkpoint, other_root)
    serve(server, plain_checkpoint)
    with FileServer(other_root) as other:
        server.redirects = {FIRST: f"{other.url}/{FIRST}"}
        download(server.url.replace("://", "://user:hidden@"), tmp_path / "there")
        assert same_files(plain_checkpoint, tmp_path / "there")
        assert other.sent_bytes[FIRST] >= (plain_checkpoint / FIRST).stat().st_size
        assert all("Authorization" not in headers for headers in other.headers)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x", ""])
def test_a_redirect_elsewhere_is_refused(server: FileServer, tmp_path: Path, target: str) -> None:
    server.redirects = {"tensor_index.json": target}
    with pytest.raises(RemoteError):
        download(server.url, tmp_path / "there", policy=QUICK)


def test_a_redirect_whose_target_is_not_escaped_is_followed(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    elsewhere = server.root / "modèle x"
    elsewhere.mkdir()
    (server.root / FIRST).rename(elsewhere / FIRST)
    # As it goes over the wire: the bytes of its UTF-8.
    server.redirects = {FIRST: f"/{elsewhere.name}/{FIRST}".encode().decode("latin-1")}
    download(server.url, tmp_path / "there")
    assert same_files(plain_checkpoint, tmp_path / "there")


def test_a_loop_of_redirects_ends(server: FileServer, tmp_path: Path) -> None:
    server.redirects = {"tensor_index.json": "/tensor_index.json"}
    with pytest.raises(RemoteError, match="redirects"):
        download(server.url, tmp_path / "there", policy=QUICK)


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "a/b.safetensors", "a\x00b.safetensors", ".safetensors", "a b.safetensors", "x.bin"]
)
def test_names_from_the_index_never_become_paths(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path, name: str
) -> None:
    serve(server, plain_checkpoint)
    (server.root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(CheckpointCorruptError):
        download(server.url, tmp_path / "there", policy=QUICK)
    assert leftovers(tmp_path / "there") == [".there.download"]
    assert not list((tmp_path / ".there.download").rglob("*evil*"))


def test_a_header_that_lies_is_refused_before_the_weights_are_fetched(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    with (server.root / FIRST).open("r+b") as file:
        file.write((1 << 60).to_bytes(8, "little"))
    with pytest.raises(CheckpointCorruptError, match=FIRST):
        download(server.url, tmp_path / "there", policy=QUICK)
    assert server.sent_of(".safetensors") < 1 << 20


def test_a_partition_of_another_size_is_refused_before_it_is_fetched(
    server: FileServer, tmp_path: Path, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    (server.root / PARTITION).chmod(0o644)
    os.truncate(server.root / PARTITION, 4096)
    with pytest.raises(CheckpointCorruptError, match=f"{PARTITION}: 4096 bytes, expected"):
        download(server.url, tmp_path / "there", policy=QUICK)


def _change(path: Path) -> None:
    """Put another file of the same size in a file's place: the last tensor has another value."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


def test_a_file_that_changes_during_a_download_begins_anew(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    changed: list[int] = []

    def change_once(name: str, begin: int) -> None:
        if name == FIRST and begin == CHUNK_BYTES and not changed:
            changed.append(begin)
            _change(server.root / FIRST)

    server.before_range = change_once
    download(server.url, tmp_path / "there", num_connections=2)
    assert changed
    assert same_files(server.root, tmp_path / "there")


def test_a_file_that_never_stays_the_same_is_given_up(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    server.before_range = lambda name, begin: _change(server.root / FIRST) if begin == CHUNK_BYTES else None
    with pytest.raises(RemoteChangedError, match=FIRST):
        download(server.url, tmp_path / "there", num_connections=1)
    assert not (tmp_path / "there").exists()


@pytest.fixture
def stalled(server: FileServer) -> Iterator[threading.Event]:
    """The server stalls before the third chunk of a file; the event tells that it does."""
    reached, going_on = threading.Event(), threading.Event()

    def stall(name: str, begin: int) -> None:
        del name
        if begin == 2 * CHUNK_BYTES and not going_on.is_set():
            reached.set()
            going_on.wait(DEADLINE_S)

    server.before_range = stall
    yield reached
    going_on.set()


def _interrupt(server: FileServer, destination: Path, stalled: threading.Event) -> None:
    """Cancel a download by one connection when it waits for the third chunk of the first file."""
    cancel = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(download, server.url, destination, num_connections=1, cancel=cancel)
        assert stalled.wait(DEADLINE_S)
        cancel.set()
        # At once, though the server would keep it waiting for longer.
        with pytest.raises(LoadCanceledError):
            running.result(DEADLINE_S / 2)
    server.before_range = None
    server.sent_bytes.clear()


@pytest.mark.parametrize("form", ["plain_checkpoint", "converted_checkpoint"])
def test_a_canceled_download_goes_on_where_it_stopped(
    server: FileServer, tmp_path: Path, stalled: threading.Event, request: pytest.FixtureRequest, form: str
) -> None:
    source: Path = request.getfixturevalue(form)
    serve(server, source)
    _interrupt(server, tmp_path / "there", stalled)
    assert leftovers(tmp_path / "there") == [".there.download"]
    report = download(server.url, tmp_path / "there")
    assert same_files(source, tmp_path / "there")
    missing = report.num_bytes - 2 * CHUNK_BYTES
    assert missing <= report.received_bytes < missing + (1 << 20)
    assert server.sent_of(".bin") + server.sent_of(".safetensors") < missing + (1 << 20)


def test_pieces_of_a_file_that_has_changed_since_are_fetched_again_and_only_those(
    server: FileServer, tmp_path: Path, stalled: threading.Event, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    _interrupt(server, tmp_path / "there", stalled)
    _change(server.root / FIRST)
    report = download(server.url, tmp_path / "there")
    assert same_files(server.root, tmp_path / "there")
    assert report.received_bytes >= report.num_bytes


def test_pieces_are_not_trusted_where_the_server_cannot_say_whether_a_file_changed(
    server: FileServer, tmp_path: Path, stalled: threading.Event, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    server.has_versions = False
    _interrupt(server, tmp_path / "there", stalled)
    report = download(server.url, tmp_path / "there")
    assert same_files(plain_checkpoint, tmp_path / "there")
    assert report.received_bytes >= report.num_bytes


def test_a_piece_that_the_disk_has_lost_is_fetched_again(
    server: FileServer, tmp_path: Path, stalled: threading.Event, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    _interrupt(server, tmp_path / "there", stalled)
    with (tmp_path / ".there.download" / "checkpoint" / FIRST).open("r+b") as file:
        file.seek(CHUNK_BYTES + 5)
        file.write(b"lost")
    report = download(server.url, tmp_path / "there")
    assert same_files(plain_checkpoint, tmp_path / "there")
    assert report.received_bytes >= report.num_bytes - CHUNK_BYTES


def test_a_killed_download_goes_on_where_it_stopped(
    server: FileServer, tmp_path: Path, stalled: threading.Event, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    program = (
        "import sys; from pathlib import Path; from loaders.remote.download import download; "
        "download(sys.argv[1], Path(sys.argv[2]), num_connections=1)"
    )
    killed = subprocess.Popen([sys.executable, "-c", program, server.url, str(tmp_path / "there")])
    assert stalled.wait(DEADLINE_S)
    with pytest.raises(ConversionBusyError):
        download(server.url, tmp_path / "there")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "there").exists()
    server.before_range = None
    server.sent_bytes.clear()
    report = download(server.url, tmp_path / "there")
    verify(tmp_path / "there")
    assert server.sent_of(PARTITION) < report.num_bytes - 2 * CHUNK_BYTES + 1024


def test_a_destination_that_is_the_checkpoint_is_left_and_anything_else_refused(
    server: FileServer, tmp_path: Path, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    download(server.url, tmp_path / "there")
    assert download(server.url, tmp_path / "there").received_bytes == 0
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointExistsError, match="other"):
        download(server.url, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_run_that_died_after_publishing_is_found_to_be_done(
    server: FileServer, tmp_path: Path, stalled: threading.Event, plain_checkpoint: Path
) -> None:
    serve(server, plain_checkpoint)
    _interrupt(server, tmp_path / "there", stalled)
    download(server.url, tmp_path / "copy")
    shutil.rmtree(tmp_path / ".there.download" / "checkpoint")
    (tmp_path / "copy").rename(tmp_path / "there")
    assert download(server.url, tmp_path / "there").received_bytes == 0
    assert leftovers(tmp_path / "there") == []


def test_a_full_disk_is_seen_before_anything_large_is_fetched(
    server: FileServer, tmp_path: Path, converted_checkpoint: Path
) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", mount], check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"NO SMALL DISK: only root can mount a tmpfs ({made.stderr.decode().strip()})")
    try:
        serve(server, converted_checkpoint)
        with pytest.raises(DiskFullError, match="are needed"):
            download(server.url, mount / "there")
        assert server.sent_of(PARTITION) < 1024
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_certificate_that_nobody_vouches_for_is_refused(
    server: FileServer, tmp_path: Path, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-days", "1", "-keyout", key, "-out", certificate]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.wrap_tls(context)
    with pytest.raises(RemoteError, match=r"TLS: .*self.signed"):
        download(server.url.replace("http:", "https:"), tmp_path / "there", policy=QUICK)


def test_a_proxy_of_the_environment_is_asked(
    server: FileServer, tmp_path: Path, plain_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(server, plain_checkpoint)
    monkeypatch.setenv("http_proxy", server.url.replace("://", "://me:hidden@"))
    monkeypatch.delenv("no_proxy", raising=False)
    download("http://nowhere.invalid", tmp_path / "there")
    assert same_files(plain_checkpoint, tmp_path / "there")
    assert server.headers[-1]["Proxy-Authorization"] == "Basic bWU6aGlkZGVu"


def test_connections_are_kept_for_the_next_request(
    server: FileServer, tmp_path: Path, converted_checkpoint: Path
) -> None:
    serve(server, converted_checkpoint)
    download(server.url, tmp_path / "there", num_connections=2)
    assert server.num_connections <= 4 < len(server.headers)
    wait_until(lambda: server.num_open == 0, "connections are closed at the end", DEADLINE_S)
