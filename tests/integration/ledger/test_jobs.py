from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta

import pytest

from sllm_tasks.errors import ConflictError, ErrorCode
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import Exactness, JobStatus, TokenRecord
from sllm_tasks.ledger import jobs
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import decode_tokens, from_ms, job_spec, to_ms
from sllm_tasks.ledger.tables import JobRow
from tests.integration.ledger.factories import NOW, TENANT, add_job, failure, make_job, success


def _status(database: Database, job_id: str) -> JobStatus:
    with database.reading() as session:
        row = jobs.get_job(session, job_id)
        assert row is not None
        return row.status


def test_a_job_comes_back_as_it_was_accepted(database: Database) -> None:
    new = make_job(client_id="mine-0001")
    origin = {"traceparent": "00-ab", "request_id": "req_1"}
    new = replace(new, spec=replace(new.spec, deadline_ms=to_ms(NOW) + 1, exactness=Exactness.EXACT, **origin))
    with database.transaction() as session:
        add_job(session, new)
    with database.reading() as session:
        row = jobs.get_job(session, new.spec.job_id, TENANT)
        assert row is not None
        assert job_spec(row) == new.spec
        assert (row.prompt, row.user_metadata, row.request_id) == ("Say hi", {"a": "b"}, "req_1")
        assert (row.status, row.attempt, row.version) == (JobStatus.QUEUED, 1, 1)
        assert row.created_at == NOW
        found = jobs.get_job_by_client_id(session, TENANT, "mine-0001")
        assert found is not None
        assert found.id == row.id


def test_the_row_of_a_new_job_is_the_one_that_is_read_afterwards(database: Database) -> None:
    new = make_job(client_id="mine-0001", metadata={"a": "b"})
    with database.transaction() as session:
        add_job(session)
        written = jobs.insert_job(session, new)
    with database.reading() as session:
        read = jobs.get_job(session, new.spec.job_id)
        names = [attribute.key for attribute in JobRow.__mapper__.column_attrs]
        assert [getattr(written, name) for name in names] == [getattr(read, name) for name in names]


def test_another_tenants_job_is_as_good_as_absent(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        assert jobs.get_job(session, job_id, "somebody") is None
        assert jobs.get_job(session, "job_unknown") is None


def test_a_job_that_ended_cannot_end_again(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        assert jobs.end_job(session, success(job_id))
        assert not jobs.end_job(session, failure(job_id))
    assert _status(database, job_id) is JobStatus.SUCCEEDED


def test_a_job_nobody_knows_cannot_end(database: Database) -> None:
    with database.transaction() as session:
        assert not jobs.end_job(session, success("job_unknown"))


def test_a_batch_of_endings_ends_what_was_open_and_says_which(database: Database) -> None:
    with database.transaction() as session:
        first, second, third = (add_job(session) for _ in range(3))
        jobs.end_job(session, failure(second))
        assert jobs.end_jobs(session, [success(third), success(second), success(first), failure(first)]) == {
            first,
            third,
        }
    assert _status(database, first) is JobStatus.SUCCEEDED
    assert _status(database, second) is JobStatus.FAILED


def test_an_empty_batch_ends_nothing(database: Database) -> None:
    with database.transaction() as session:
        assert jobs.end_jobs(session, []) == set()


def test_an_ending_keeps_all_that_was_reported(database: Database) -> None:
    tokens = (TokenRecord(index=0, token_id=5, text="\0", logprob=-0.5, top=((5, -0.5), (6, -1.5))),)
    with database.transaction() as session:
        job_id = add_job(session)
        jobs.note_started(session, job_id, attempt=1, at=NOW, assignment={"node": "n0", "gpus": [0]})
        ending = success(job_id, text="a\0b\ud800 ü")
        ending = replace(ending, outcome=replace(ending.outcome, logprobs=tokens), timings_ms={"queued": 1.5})
        assert jobs.end_job(session, replace(ending, first_token_at=NOW, num_migrations=2))
    with database.reading() as session:
        row = jobs.get_job(session, job_id)
        assert row is not None
        assert row.output == "a\0b\ud800 ü"
        assert decode_tokens(row.logprobs) == tokens
        assert row.assignment == {"node": "n0", "gpus": [0]}, "the ending did not know it, so the row keeps it"
        assert (row.timings_ms, row.num_migrations, row.completion_tokens) == ({"queued": 1.5}, 2, 1)
        assert (row.started_at, row.first_token_at, row.ended_at) == (NOW, NOW, NOW)
        assert row.expires_at == NOW + timedelta(seconds=row.result_ttl_s)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_job_whose_probabilities_are_no_numbers_ends_without_them(database: Database, value: float) -> None:
    tokens = (TokenRecord(index=0, token_id=5, text="a", logprob=value, top=((5, -0.5), (6, value))),)
    with database.transaction() as session:
        job_id = add_job(session)
        ending = success(job_id)
        assert jobs.end_job(session, replace(ending, outcome=replace(ending.outcome, logprobs=tokens)))
    with database.reading() as session:
        row = jobs.get_job(session, job_id)
        assert row is not None
        assert decode_tokens(row.logprobs) == (replace(tokens[0], logprob=None, top=((5, -0.5),)),)


def test_a_failed_job_keeps_its_error_and_partial_text(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        jobs.end_job(session, failure(job_id, "bad \0 byte"))
        row = jobs.get_job(session, job_id)
        assert row is not None
        assert (row.error_code, row.error_message, row.error_retryable) == (ErrorCode.POISON, "bad � byte", False)
        assert row.output == "h"


def test_every_change_of_a_job_is_a_new_version(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        jobs.note_started(session, job_id, attempt=1, at=NOW, assignment={})
        jobs.note_canceling(session, job_id)
        jobs.end_job(session, success(job_id))
        row = jobs.get_job(session, job_id)
        assert row is not None
        assert (row.status, row.version) == (JobStatus.SUCCEEDED, 4)


def test_reports_of_an_earlier_attempt_are_refused(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        assert jobs.bump_attempt(session, job_id, 1, worker_lost=True) == 2
        assert not jobs.note_started(session, job_id, attempt=1, at=NOW, assignment={})
        assert jobs.note_started(session, job_id, attempt=2, at=NOW, assignment={})


def test_status_moves_only_along_the_transition_table(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        assert jobs.note_canceling(session, job_id)
        assert not jobs.note_canceling(session, job_id)
        assert not jobs.note_started(session, job_id, attempt=1, at=NOW, assignment={})


def test_a_new_attempt_queues_the_job_again_and_counts_a_lost_worker(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        jobs.note_started(session, job_id, attempt=1, at=NOW, assignment={})
        assert jobs.bump_attempt(session, job_id, 1, worker_lost=False) == 2
        assert jobs.bump_attempt(session, job_id, 2, worker_lost=True) == 3
        assert jobs.bump_attempt(session, job_id, 2, worker_lost=True) is None
        (active,) = jobs.active_jobs(session, older_than=NOW + timedelta(1), overdue_at=NOW, limit=9)
        assert (active.attempt, active.worker_losses, active.status) == (3, 1, JobStatus.QUEUED)


def test_a_new_attempt_does_not_forget_that_the_job_is_being_canceled(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        jobs.note_canceling(session, job_id)
        assert jobs.bump_attempt(session, job_id, 1, worker_lost=True) == 2
        (active,) = jobs.active_jobs(session, older_than=NOW + timedelta(1), overdue_at=NOW, limit=9)
        assert active.status is JobStatus.CANCELING


def test_a_job_that_ended_gets_no_further_attempt(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        jobs.end_job(session, success(job_id))
        assert jobs.bump_attempt(session, job_id, 1, worker_lost=True) is None
        assert not jobs.note_canceling(session, job_id)


def test_a_client_id_is_unique_within_its_tenant_only(database: Database) -> None:
    theirs = make_job(client_id="same-0001")
    with database.transaction() as session:
        add_job(session, make_job(client_id="same-0001"))
        add_job(session, replace(theirs, spec=replace(theirs.spec, tenant="somebody")))
        with pytest.raises(ConflictError):
            add_job(session, make_job(client_id="same-0001"))


def test_the_sweeper_walks_over_active_jobs_only_and_in_order(database: Database) -> None:
    with database.transaction() as session:
        ids = sorted(add_job(session) for _ in range(5))
        jobs.end_job(session, success(ids[1]))
        young = make_job()
        add_job(session, replace(young, spec=replace(young.spec, created_ms=to_ms(NOW) + 60_000)))
        first = jobs.active_jobs(session, older_than=NOW + timedelta(seconds=1), overdue_at=NOW, limit=2)
        rest = jobs.active_jobs(
            session, older_than=NOW + timedelta(seconds=1), overdue_at=NOW, limit=9, after_id=first[-1].job_id
        )
        assert [job.job_id for job in first + rest] == [ids[0], ids[2], ids[3], ids[4]]
        assert jobs.count_active(session, TENANT) == 5
        assert jobs.count_active(session, "somebody") == 0


def test_a_prompt_of_many_tokens_and_much_json_come_back_whole(database: Database) -> None:
    messages = [{"role": "user", "content": "ü\0" * 200_000}]
    new = make_job(prompt=None, messages=messages)
    ids = tuple(range(120_000))
    with database.transaction() as session:
        job_id = add_job(session, replace(new, spec=replace(new.spec, job_id=new_id("job"), prompt_ids=ids)))
    with database.reading() as session:
        row = jobs.get_job(session, job_id)
        assert row is not None
        assert row.messages == messages
        assert row.prompt_ids == ids


def test_cluster_time_survives_the_way_through_the_ledger() -> None:
    assert all(to_ms(from_ms(ms)) == ms for ms in (0, 1, 999, 1_795_230_000_123, 4_102_444_800_999))
