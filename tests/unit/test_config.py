"""Settings: file below variables below flags; a wrong one is named with its origin and what was expected."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
from gunicorn.util import parse_address
from pydantic import ValidationError

from sllm_tasks.config import Settings, default_home, load_settings, make_private, masked
from sllm_tasks.errors import ConfigError


def _environ(home: Path, **variables: str) -> dict[str, str]:
    return {"SLLM_HOME": str(home), **variables}


def _write(home: Path, text: str) -> Path:
    path = home / "sllm.toml"
    path.write_text(text)
    return path


def test_a_flag_beats_a_variable_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    path = _write(tmp_path, "port = 1\nnodes = 3\nssd_copies = 5\n")
    environ = _environ(tmp_path, SLLM_PORT="2", SLLM_NODES="4")
    settings, origins = load_settings({"port": 9}, environ)
    assert (settings.port, settings.nodes, settings.ssd_copies, settings.max_attempts) == (9, 4, 5, 3)
    names = ("port", "nodes", "ssd_copies", "max_attempts")
    assert [origins[name] for name in names] == ["flag --port", "SLLM_NODES", str(path), "default"]


def test_a_flag_that_was_not_given_hides_nothing(tmp_path: Path) -> None:
    settings, origins = load_settings({"port": None}, _environ(tmp_path, SLLM_PORT="2"))
    assert (settings.port, origins["port"]) == (2, "SLLM_PORT")


def test_the_file_may_be_elsewhere_but_then_it_must_exist(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.toml"
    environ = _environ(tmp_path, SLLM_CONFIG=str(elsewhere))
    with pytest.raises(ConfigError, match=r"elsewhere\.toml"):
        load_settings({}, environ)
    elsewhere.write_text("port = 7\n")
    assert load_settings({}, environ)[0].port == 7


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    _write(tmp_path, "port = \n")
    with pytest.raises(ConfigError, match=r"sllm\.toml"):
        load_settings({}, _environ(tmp_path))


def test_an_unknown_key_is_named_with_its_origin_and_the_nearest_known_one(tmp_path: Path) -> None:
    path = _write(tmp_path, "max_atempts = 1\n")
    with pytest.raises(ConfigError) as raised:
        load_settings({}, _environ(tmp_path))
    assert str(raised.value) == f"{path}: unknown setting 'max_atempts'; did you mean max_attempts?"


def test_an_unknown_variable_of_ours_stops_the_process(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SLLM_PROT: unknown setting 'prot'; did you mean port"):
        load_settings({}, _environ(tmp_path, SLLM_PROT="1"))


def test_variables_of_others_and_of_clients_are_none_of_our_business(tmp_path: Path) -> None:
    load_settings({}, _environ(tmp_path, PORT="x", SLLM_URL="http://x", SLLM_API_KEY="k", SLLM_FAILPOINTS=""))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SLLM_PORT", "70000"),
        ("SLLM_PORT", "http"),
        ("SLLM_NODES", "0"),
        ("SLLM_NODE", "a.b"),
        ("SLLM_DEVICE", "cuda"),
        ("SLLM_LOG_LEVEL", "LOUD"),
        ("SLLM_GRACE_S", "-1"),
        ("SLLM_SECRET", ""),
        ("SLLM_REDIS_URL", "localhost:6379"),
    ],
)
def test_a_bad_value_is_named_with_its_origin(tmp_path: Path, variable: str, value: str) -> None:
    name = variable.removeprefix("SLLM_").lower()
    with pytest.raises(ConfigError, match=f"^{variable}: {name}: "):
        load_settings({}, _environ(tmp_path, **{variable: value}))


def test_a_bad_secret_is_not_repeated_in_the_message(tmp_path: Path) -> None:
    _write(tmp_path, "secret = [1234567]\n")
    with pytest.raises(ConfigError) as raised:
        load_settings({}, _environ(tmp_path))
    assert "1234567" not in str(raised.value)


def test_a_secret_may_come_from_a_file_and_is_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    settings, origins = load_settings({}, _environ(tmp_path, SLLM_SECRET_FILE=str(secret)))
    assert settings.secret is not None
    assert settings.secret.get_secret_value() == "hush"
    assert origins["secret"] == "SLLM_SECRET_FILE"
    assert "hush" not in repr(settings)


def test_a_secret_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SLLM_SECRET_FILE"):
        load_settings({}, _environ(tmp_path, SLLM_SECRET_FILE=str(tmp_path / "nothing")))


def test_a_secret_file_that_is_no_text_is_named_and_not_repeated(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"hush\xff")
    with pytest.raises(ConfigError) as raised:
        load_settings({}, _environ(tmp_path, SLLM_SECRET_FILE=str(secret)))
    assert str(raised.value) == f"SLLM_SECRET_FILE: {secret} is no text in UTF-8"


def test_an_empty_variable_names_no_folder_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    empty = dict.fromkeys(("SLLM_HOME", "SLLM_CONFIG", "SLLM_POOL_HOME", "SLLM_TLS_CERTIFICATE", "SLLM_TLS_KEY"), "")
    settings, origins = load_settings({}, empty)
    assert (settings.home, settings.tls_key, settings.pool_home) == (default_home(), None, Path("/dev/shm"))
    assert origins["home"] == "default"


def test_a_machine_whose_name_has_dots_is_a_node_without_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "ip-10-0-0-1.ec2.internal")
    assert load_settings({}, _environ(tmp_path))[0].node == "ip-10-0-0-1-ec2-internal"


def test_an_address_of_ipv6_is_listened_at_and_written_into_urls() -> None:
    settings = Settings(host="::1", port=8081)
    assert parse_address(settings.web_address) == ("::1", 8081)
    assert settings.web_url == "http://[::1]:8081"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:one@two@host:6379/0", "redis://user:***@host:6379/0"),
        ("postgresql://user:one/two@host/name", "postgresql://user:***@host/name"),
        ("postgresql://host/name?user=me&password=one&sslPassword=two", None),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_passwords_of_urls_are_not_shown_however_they_are_written(url: str, shown: str | None) -> None:
    assert masked(url) == (shown or "postgresql://host/name?user=me&password=***&sslPassword=***")


def test_settings_do_not_change_and_do_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLLM_PORT", "1")
    settings = Settings()
    assert settings.port == 8080
    with pytest.raises(ValidationError):
        settings.port = 2


@pytest.mark.parametrize(
    ("redis_url", "live_url", "broker_url"),
    [
        (None, "unix:///h/run/redis.sock", "redis+socket:///h/run/redis.sock"),
        ("unix:///s", "unix:///s", "redis+socket:///s"),
        ("rediss://:p@host:6380/1", "rediss://:p@host:6380/1", "rediss://:p@host:6380/1"),
    ],
)
def test_live_state_and_broker_are_one_server(redis_url: str | None, live_url: str, broker_url: str) -> None:
    settings = Settings(home=Path("/h"), redis_url=redis_url)
    assert (settings.live_url, settings.broker_url) == (live_url, broker_url)


@pytest.mark.parametrize("half", [{"tls_key": "k"}, {"tls_certificate": "c"}])
def test_a_certificate_comes_with_its_key(tmp_path: Path, half: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"tls_key: .*together"):
        load_settings(half, _environ(tmp_path))
    both = load_settings({"tls_key": "k", "tls_certificate": "c"}, _environ(tmp_path))[0]
    assert (both.web_url, Settings().web_url) == ("https://127.0.0.1:8080", "http://127.0.0.1:8080")


def test_without_a_database_url_the_ledger_is_in_the_state_folder() -> None:
    assert Settings(home=Path("/h")).ledger_url == "sqlite:////h/ledger.db"
    assert Settings(database_url="postgresql+psycopg://x/y").ledger_url == "postgresql+psycopg://x/y"


def test_the_state_folder_is_closed_to_others_also_where_it_was_there_before(tmp_path: Path) -> None:
    for folder in (tmp_path / "open", tmp_path / "new" / "deep"):
        if folder.name == "open":
            folder.mkdir()
            folder.chmod(0o755)
        make_private(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        with pytest.raises(ConfigError, match=f"^{folder} cannot be made: "):
            make_private(folder)


def test_a_folder_that_many_share_is_no_state_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigError, match="shared"):
        make_private(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
