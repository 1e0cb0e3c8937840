"""Where the client finds its server and its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sllm_tasks.client.connection import find_connection
from sllm_tasks.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Variables that name a state folder with a client file."""
    (tmp_path / "client.toml").write_text('url = "http://here:1"\napi_key = "stored"\n')
    return {"SLLM_HOME": str(tmp_path)}


def test_arguments_go_before_variables_and_variables_before_the_file(home: dict[str, str]) -> None:
    stored = find_connection(environ=home)
    assert (stored.url, stored.api_key) == ("http://here:1", "stored")
    variables = {**home, "SLLM_URL": "http://there:2/", "SLLM_API_KEY": "variable"}
    assert find_connection(environ=variables).url == "http://there:2"
    given = find_connection("http://given:3", "key", variables)
    assert (given.url, given.api_key) == ("http://given:3", "key")


def test_a_stored_key_is_not_sent_to_another_server(home: dict[str, str]) -> None:
    assert find_connection("http://elsewhere:1", environ=home).api_key is None
    assert find_connection("http://here:1", environ=home).api_key == "stored"


@pytest.mark.parametrize("url", ["", "http://here:1/"])
def test_the_stored_key_goes_to_its_server_however_that_is_named(home: dict[str, str], url: str) -> None:
    found = find_connection(environ={**home, "SLLM_URL": url, "SLLM_API_KEY": ""})
    assert (found.url, found.api_key) == ("http://here:1", "stored")


@pytest.mark.parametrize("url", ["http://[::1", "http://", "here:8080", "ftp://here", "http://here:port"])
def test_what_is_no_url_is_named_before_anything_is_sent(home: dict[str, str], url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL of a server") as raised:
        find_connection(url, environ=home)
    assert url in str(raised.value)


def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(home: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="SLLM_API_KEY") as raised:
        find_connection(api_key="hush\N{LATIN SMALL LETTER E WITH ACUTE}", environ=home)
    assert "hush" not in str(raised.value)
    assert find_connection(api_key="sllm_key\n", environ=home).api_key == "sllm_key"


def test_without_anything_the_server_is_on_this_machine(tmp_path: Path) -> None:
    connection = find_connection(environ={"SLLM_HOME": str(tmp_path)})
    assert (connection.url, connection.headers) == ("http://127.0.0.1:8080", {})


def test_a_key_does_not_show_in_the_printed_form(home: dict[str, str]) -> None:
    assert "stored" not in repr(find_connection(environ=home))


def test_a_broken_client_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text("url = ")
    with pytest.raises(ConfigError, match=r"client\.toml"):
        find_connection(environ={"SLLM_HOME": str(tmp_path)})
