"""What the server refuses is told in the words of the command that was typed."""

from __future__ import annotations

import pytest

from sllm_tasks.cli.main import main, sllm
from sllm_tasks.cli.wording import as_typed, command_of
from sllm_tasks.client import Client
from sllm_tasks.client.errors import ApiError, UnsendableError
from sllm_tasks.errors import ConfigError, SllmError, TraceError


@pytest.mark.parametrize(
    ("typed", "message", "told"),
    [
        (["deploy", "m", "d"], "/context: must be more than 0, found 0", "--context: must be more than 0, found 0"),
        (["deploy", "m", "d"], "/max_jobs: no; /keep_alive_s: no", "--max-jobs: no; --keep-alive: no"),
        (["deploy", "!!", "d"], "name: is not a name of a model", "NAME: is not a name of a model"),
        (
            ["deploy", "m", "d", "--min-replicas", "9"],
            "/: min_replicas must not exceed max_replicas",
            "--min-replicas must not exceed --max-replicas",
        ),
        (["submit", "m", "p"], "/params/max_tokens: no", "--max-tokens: no"),
        (["submit", "m", "p"], "/params/stop/1: no", "--stop: no"),
        (["submit", "m", "p"], "/deadline_s: no", "--deadline: no"),
        (["submit", "m", "p"], "/input/prompt: no", "PROMPT: no"),
        (["submit", "m", "p", "--chat"], "/input/messages/0/content: no", "PROMPT: no"),
        (["key", "create", "n"], "/scopes: no", "--scope: no"),
        (["tenant", "set", "t"], "name: no", "TENANT: no"),
        (["node", "calibrate", "n"], "node: no", "NODE: no"),
        (["migrate", "start", "j"], "/job_id: must be the id of a job", "JOB: must be the id of a job"),
        (["job", "ls"], "?limit: no", "--limit: no"),
    ],
)
def test_a_field_has_the_name_of_the_option_or_argument_it_came_from(typed: list[str], message: str, told: str) -> None:
    assert as_typed(message, command_of(sllm, typed)) == told


@pytest.mark.parametrize(
    "message",
    [
        "/colour: is not known here",
        "/0: is not known here",
        "/params: must be an object",
        "/data/llama: no such directory",
        "no model.safetensors in /context: is it a checkpoint?",
        "model m is not deployed",
    ],
)
def test_what_is_no_field_of_the_command_stays_as_it_is(message: str) -> None:
    assert as_typed(message, command_of(sllm, ["deploy", "m", "d"])) == message


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ApiError(422, "invalid_request", "/context: must be at most 8"), "--context: must be at most 8"),
        (UnsendableError("/context: must be a finite number"), "--context: must be a finite number"),
        (ApiError(422, "checkpoint_missing", "/data/source: not there"), "/data/source: not there"),
        (TraceError("/data/source: line 1 is no JSON"), "/data/source: line 1 is no JSON"),
        (ConfigError("/data/source: cannot be read"), "/data/source: cannot be read"),
    ],
)
def test_a_refusal_names_what_was_typed_and_a_path_stays_a_path(
    error: SllmError, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Client, "deploy", refuse)
    with pytest.raises(SystemExit):
        main(["deploy", "m", "/data/source", "--context", "9"])
    assert capsys.readouterr().err.startswith(f"error: {told}\n")
