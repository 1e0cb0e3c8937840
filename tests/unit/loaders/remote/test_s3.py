"""Checkpoints in S3: found with the environment's credentials, read by ranges."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loaders.errors import CheckpointMissingError, RemoteError, RemoteRefusedError
from loaders.format.verify import verify
from loaders.remote import transports
from loaders.remote.download import download
from loaders.remote.url import parse_url
from tests.support.remote import QUICK, same_files
from tests.support.s3_server import S3Server


@pytest.fixture(scope="module")
def s3_server(plain_checkpoint: Path, converted_checkpoint: Path) -> Iterator[S3Server]:
    """A server with a bucket for each form."""
    with S3Server() as server:
        server.put(plain_checkpoint, "plain", "models/small one")
        server.put(converted_checkpoint, "converted", "it")
        yield server


@pytest.fixture
def s3_environ(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of a client."""
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("s3_environ")
def test_both_forms_are_downloaded_from_s3(tmp_path: Path, plain_checkpoint: Path, converted_checkpoint: Path) -> None:
    download("s3://plain/models/small%20one", tmp_path / "plain")
    assert same_files(plain_checkpoint, tmp_path / "plain")
    report = download("s3://converted/it/", tmp_path / "converted")
    verify(tmp_path / "converted")
    assert same_files(converted_checkpoint, tmp_path / "converted")
    assert report.received_bytes < 1.01 * report.num_bytes


@pytest.mark.usefixtures("s3_environ")
@pytest.mark.parametrize("url", ["s3://plain/models/nothing", "s3://nobucket/x"])
def test_what_is_not_in_s3_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(CheckpointMissingError, match=f"{url}/adapter_model.safetensors: the server answers 404"):
        download(url, tmp_path / "there", policy=QUICK)


def test_missing_credentials_are_said_to_be_missing(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(RemoteRefusedError, match="no credentials for S3"):
        download("s3://plain/x", tmp_path / "there", policy=QUICK)


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules, "loaders.remote.s3", raising=False)
    with pytest.raises(RemoteError, match=r"s3fs is not installed; install sllm-tasks\[s3\]"):
        transports.open_transport(parse_url("s3://bucket/x"))
