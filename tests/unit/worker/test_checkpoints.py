"""What a worker does with the checkpoints of its node before anybody asks for them, and when they are gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from scripts.architectures import write_tiny
from scripts.demo_checkpoints import make_tiny
from sllm_tasks.engines.base import EngineLimits
from sllm_tasks.engines.memo import Memo
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.errors import ErrorCode, ModelUnusableError, StaleError
from sllm_tasks.worker import checkpoints as module
from sllm_tasks.worker.checkpoints import Checkpoints
from tests.support.forwards import noted_forwards

DIGEST = "0" * 64


def test_the_tokenizer_of_a_new_checkpoint_is_parsed_before_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    from_buffer = Tokenizer.from_buffer
    monkeypatch.setattr(
        "sllm_tasks.tokenization._parse", lambda content: (parsed.append(content), from_buffer(content))[1]
    )
    content = Tokenizer(models.WordLevel({"one": 0}, unk_token="one")).to_str().encode()
    for name in ("first", "tuned"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "tokenizer.json").write_bytes(content)
    (tmp_path / "without").mkdir()
    checkpoints = Checkpoints("here", tmp_path, "secret", lambda _: {}, "cpu")
    while checkpoints.rehearse():
        pass
    assert parsed == [content], "both have the same, and it is parsed once"
    checkpoints.tokenizer(tmp_path / "tuned")
    assert parsed == [content]


def test_the_first_load_of_a_kind_that_was_looked_at_before_does_not_run_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sllm_tasks.engines.known_shapes._known", Memo(8))
    opt, mamba = make_tiny(tmp_path / "opt", "opt"), tmp_path / "mamba"
    write_tiny(mamba, "mamba")
    checkpoints = Checkpoints("here", tmp_path, "secret", lambda _: {}, "cpu")
    while checkpoints.rehearse():
        pass
    engine = StepLoopEngine()
    with noted_forwards() as forwards:
        engine.load(opt, ("cpu",), EngineLimits(max_jobs=1, context=32))
        assert not forwards
        with pytest.raises(ModelUnusableError, match="recurrent state"):
            StepLoopEngine().load(mamba, ("cpu",), EngineLimits(max_jobs=1, context=32))
    engine.unload()


class Reports:
    """What nodes say that they have, from one look to the next; the last of it for good."""

    def __init__(self, *said: dict[str, str | None]) -> None:
        self._said: Iterator[dict[str, str | None]] = iter(said)
        self._last = said[-1]

    def __call__(self, digest: str) -> dict[str, str | None]:
        assert digest == DIGEST
        return next(self._said, self._last)


def test_what_no_node_reports_any_more_starts_again_elsewhere(tmp_path: Path) -> None:
    checkpoints = Checkpoints("here", tmp_path, "secret", Reports({}), "cpu")
    with pytest.raises(StaleError, match="neither on this node"), checkpoints.open(DIGEST, threading.Event()):
        pass


def test_a_copy_that_is_gone_before_its_report_starts_again_when_the_report_has_come(tmp_path: Path) -> None:
    reports = Reports({"here": None}, {"here": None}, {"here": None}, {})
    checkpoints = Checkpoints("here", tmp_path, "secret", reports, "cpu")
    with pytest.raises(StaleError, match="before its node's report"), checkpoints.open(DIGEST, threading.Event()):
        pass
    assert reports(DIGEST) == {}


@pytest.mark.parametrize(
    "code", [ErrorCode.CHECKPOINT_MISSING, ErrorCode.TOKENIZER_MISSING, ErrorCode.CHECKPOINT_CORRUPT]
)
def test_a_copy_that_goes_while_it_is_read_starts_again_unless_it_was_damaged(tmp_path: Path, code: ErrorCode) -> None:
    (tmp_path / DIGEST).mkdir()
    checkpoints = Checkpoints("here", tmp_path, "secret", Reports({"here": None}, {"other": "http://other"}), "cpu")
    raises = ModelUnusableError if code is ErrorCode.CHECKPOINT_CORRUPT else StaleError
    with pytest.raises(raises), checkpoints.open(DIGEST, threading.Event()):
        raise ModelUnusableError(code, "there is no such file")


def test_a_copy_that_its_node_goes_on_to_report_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REPORTED_IN_S", 0.3)
    (tmp_path / DIGEST).mkdir()
    checkpoints = Checkpoints("here", tmp_path, "secret", Reports({"here": None}), "cpu")
    with pytest.raises(ModelUnusableError, match="no such file") as caught, checkpoints.open(DIGEST, threading.Event()):
        raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, "there is no such file")
    assert caught.value.code is ErrorCode.CHECKPOINT_MISSING


def test_nobody_waits_for_the_report_of_a_copy_that_is_not_wanted_any_more(tmp_path: Path) -> None:
    checkpoints, cancel = Checkpoints("here", tmp_path, "secret", Reports({"here": None}), "cpu"), threading.Event()
    cancel.set()
    with pytest.raises(StaleError), checkpoints.open(DIGEST, cancel):
        pass
