"""What becomes of tokens that cannot be written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sllm_tasks.errors import UnavailableError
from sllm_tasks.jobs import FinishReason, TokenRecord
from sllm_tasks.livestate.jobs import Append, Gap, Verdict
from sllm_tasks.worker.emitter import Emitter
from sllm_tasks.worker.runs import JobRun, Stop
from tests.support.processes import wait_until
from tests.unit.worker.test_reading import job_run


class _Jobs:
    """A live state that may be away."""

    def __init__(self) -> None:
        self.is_away = True
        self.num_calls = 0
        self.written: list[int] = []

    @property
    def jobs(self) -> _Jobs:
        return self

    def append(self, step: Sequence[Append]) -> list[Verdict | Gap]:
        self.num_calls += 1
        if self.is_away:
            raise UnavailableError("away")
        if step[0].tokens[0].index > len(self.written):
            return [Gap(len(self.written))]
        self.written += [token.token_id for append in step for token in append.tokens]
        return [Verdict.OK for _ in step]


@pytest.fixture
def ended_run() -> JobRun:
    """It has two tokens, and its outcome."""
    run = job_run()
    run.tokens = [TokenRecord(index=number - 1, token_id=number, text="a") for number in (1, 2)]
    run.succeed(FinishReason.LENGTH)
    return run


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> _Jobs:
    monkeypatch.setattr("sllm_tasks.worker.emitter._RETRY_S", 0.001)
    return _Jobs()


def test_a_run_is_finished_after_its_last_token_is_written(jobs: _Jobs, ended_run: JobRun) -> None:
    emitter = Emitter(jobs)  # type: ignore[arg-type]
    emitter.start()
    emitter.emit([ended_run])
    wait_until(lambda: jobs.num_calls > 2, "it tries again")
    assert not ended_run.finished.is_set()
    jobs.is_away = False
    assert ended_run.finished.wait(10)
    assert (jobs.written, ended_run.stop) == ([1, 2], None)
    emitter.stop()


def test_a_run_whose_tokens_nobody_will_write_is_lost_and_not_ended(jobs: _Jobs, ended_run: JobRun) -> None:
    emitter = Emitter(jobs)  # type: ignore[arg-type]
    emitter.start()
    emitter.emit([ended_run])
    emitter.stop()
    assert ended_run.finished.is_set()
    assert (ended_run.stop, ended_run.num_written) == (Stop.LOST, 0)


def test_tokens_that_a_restarted_server_has_forgotten_are_written_again(jobs: _Jobs, ended_run: JobRun) -> None:
    jobs.is_away = False
    ended_run.tokens += [TokenRecord(index=2, token_id=3, text="a")]
    ended_run.num_written = 2
    emitter = Emitter(jobs)  # type: ignore[arg-type]
    emitter.start()
    emitter.emit([ended_run])
    assert ended_run.finished.wait(10)
    assert (jobs.written, ended_run.num_written, ended_run.stop) == ([1, 2, 3], 3, None)
    emitter.stop()
