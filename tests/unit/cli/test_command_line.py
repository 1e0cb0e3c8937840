"""What a command line prints and how it exits, as far as no server is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sllm_tasks.cli.failures import Exit, report
from sllm_tasks.cli.main import main
from sllm_tasks.cli.output import human_bytes, show_list
from sllm_tasks.client.errors import (
    ApiError,
    AuthError,
    JobFailedError,
    JobTimeoutError,
    NotFoundApiError,
    ServerUnavailableError,
)
from sllm_tasks.errors import ConfigError, SllmError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SllmError("broken"), Exit.FAILURE),
        (ConfigError("port: must be a number"), Exit.USAGE),
        (NotFoundApiError(404, "not_found", "no"), Exit.NOT_FOUND),
        (ApiError(422, "model_not_found", "no"), Exit.NOT_FOUND),
        (AuthError(401, "unauthorized", "no"), Exit.AUTH),
        (JobTimeoutError("job_1", 3), Exit.TIMEOUT),
        (ServerUnavailableError("away"), Exit.UNAVAILABLE),
        (ApiError(422, "invalid_request", "/model: no"), Exit.USAGE),
        (JobFailedError("job_1", "invalid_request", "no", retryable=False), Exit.FAILURE),
        (ApiError(422, "teapot", "no"), Exit.FAILURE),
    ],
)
def test_an_error_says_its_code_and_what_to_try_and_sets_the_exit_status(
    error: SllmError, status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, str(error)) is status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(":")[0] for line in printed.err.splitlines()] == ["error", "  code", "  try"]


def test_an_error_of_the_server_names_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    report(ApiError(500, "internal", "no", request_id="req_1"), "no")
    assert "req_1" in capsys.readouterr().err


def _exit_status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["job", "nothing"],
        ["run"],
        ["deploy", "a", "b", "--context", "x"],
        ["run", "a", "b", "--temperature", "9"],
        ["run", "a", "b", "--temperature", "nan"],
        ["deploy", "a", "b", "--keep-alive", "nan"],
        ["deploy", "a", "b", "--keep-alive", "-3"],
        ["tenant", "set", "a", "--weight", "nan"],
        ["run", "a", "b", "--top-p", "0"],
        ["run", "a", "b", "--max-tokens", "0"],
        ["submit", "a", "b", "--priority", "10"],
        ["submit", "a", "b", "--deadline", "0"],
        ["config", "acl", "folder", "--url", "redis://[x"],
        ["config", "acl", "folder", "--url", "redis://host:port"],
        ["key", "create", "a", "--local", "--tenant", "Acme Inc"],
        ["key", "create", "", "--local"],
    ],
)
def test_a_command_that_makes_no_sense_exits_with_2(arguments: list[str]) -> None:
    assert _exit_status(*arguments) == Exit.USAGE


def test_a_server_that_is_not_there_exits_with_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLLM_URL", "http://127.0.0.1:1")
    assert _exit_status("models") == Exit.UNAVAILABLE


def test_a_bad_setting_exits_with_2_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLLM_PROT", "1")
    assert _exit_status("config", "show") == Exit.USAGE
    assert "did you mean port?" in capsys.readouterr().err


def test_settings_are_shown_with_their_origin_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLLM_HOME", str(tmp_path))
    monkeypatch.setenv("SLLM_SECRET", "hidden-one")
    monkeypatch.setenv("SLLM_DATABASE_URL", "postgresql://user:hidden-two@host/name")
    assert _exit_status("config", "show", "-o", "json") == Exit.OK
    printed = capsys.readouterr().out
    shown = {row["name"]: row for row in json.loads(printed)}
    assert shown["secret"]["origin"] == "SLLM_SECRET"
    assert shown["port"]["origin"] == "default"
    assert "hidden" not in printed


def test_the_schema_is_checked_and_upgraded_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLLM_HOME", str(tmp_path / "new"))
    assert _exit_status("db", "upgrade") == Exit.OK
    assert _exit_status("db", "check") == Exit.OK
    assert _exit_status("key", "create", "first", "--local", "-o", "json") == Exit.OK
    assert json.loads(capsys.readouterr().out)["key"].startswith("sllm_")


def test_a_first_key_wants_a_ledger_that_has_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLLM_HOME", str(tmp_path))
    assert _exit_status("key", "create", "first", "--local") == Exit.USAGE
    assert "sllm db upgrade" in capsys.readouterr().err


def test_a_limit_beyond_every_list_is_one_of_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLLM_URL", "http://127.0.0.1:1")
    assert _exit_status("job", "ls", "--limit", str(10**30)) == Exit.UNAVAILABLE


@pytest.mark.parametrize("given", [None, b"\xff"])
def test_a_prompt_that_cannot_be_read_is_told_before_anything_is_sent(given: bytes | None) -> None:
    # As the shell closes it: `<&-`.
    close = {"preexec_fn": lambda: os.close(0)} if given is None else {"input": given}
    done = subprocess.run(
        [sys.executable, "-m", "sllm_tasks.cli.main", "submit", "m"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        **close,  # type: ignore[call-overload] # one of two
    )
    assert done.returncode == Exit.USAGE
    assert b"Invalid value for PROMPT" in done.stderr


def test_the_doctor_finds_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLLM_HOME", str(tmp_path))
    assert _exit_status("doctor", "-o", "json") == Exit.FAILURE
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["redis"]["health"] == "error"
    assert findings["ledger schema"]["remedy"] == "sllm db upgrade"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["job", "--help"], ["deploy", "--help"], ["worker", "--help"], ["ckpt", "convert", "--help"]],
)
def test_help_imports_neither_torch_nor_what_only_servers_need(arguments: list[str]) -> None:
    heavy = "{'torch', 'numba', 'transformers', 'celery', 'flask'}"
    program = f"""
import sys
from sllm_tasks.cli.main import main
try:
    main({arguments!r})
finally:
    assert not {heavy} & sys.modules.keys(), {heavy} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: sllm" in done.stdout


def _config_shown(tmp_path: Path, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "SLLM_HOME": str(tmp_path / "\N{GRINNING FACE}"), "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "sllm_tasks.cli.main", "config", "show", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False, env=environ)


def test_what_a_terminal_cannot_show_is_replaced_in_tables_and_written_out_in_json(tmp_path: Path) -> None:
    table, whole = _config_shown(tmp_path), _config_shown(tmp_path, "-o", "json")
    assert (table.returncode, whole.returncode) == (Exit.OK, Exit.OK)
    assert f"{tmp_path}/?" in table.stdout.decode("latin-1")
    shown = {row["name"]: row["value"] for row in json.loads(whole.stdout)}
    assert shown["home"] == str(tmp_path / "\N{GRINNING FACE}")


def test_output_that_finds_no_room_is_one_line_of_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = _config_shown(tmp_path, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (Exit.FAILURE, b"error: [Errno 28] No space left on device\n")


def test_a_table_is_aligned_and_json_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "a", "size": 1}, {"id": "longer", "size": None}]
    columns = {"ID": lambda row: row["id"], "SIZE": lambda row: row["size"]}
    show_list("table", rows, columns)
    assert capsys.readouterr().out == "ID      SIZE\na       1\nlonger  -\n"
    show_list("json", rows, columns)
    assert json.loads(capsys.readouterr().out) == rows


def test_sizes_are_written_with_three_digits() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1024, 7_906_000, 12 * 2**30)] == [
        "0 B", "1023 B", "1 KiB", "7.54 MiB", "12 GiB",
    ]  # fmt: skip
