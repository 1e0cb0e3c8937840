"""What is kept beside a job: attempts, decisions, audit; listing and forgetting."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy.orm import Session

from sllm_tasks.errors import ErrorCode
from sllm_tasks.ids import first_id, new_id
from sllm_tasks.jobs import JobError, JobStatus, StartKind
from sllm_tasks.ledger import attempts, audit, decisions, job_lists, jobs
from sllm_tasks.ledger.attempts import NewAttempt
from sllm_tasks.ledger.audit import AuditEntry
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.decisions import Decision
from sllm_tasks.ledger.happenings import happenings
from sllm_tasks.ledger.history import job_lives
from sllm_tasks.ledger.job_lists import JobFilter
from sllm_tasks.ledger.operations import (
    NewOperation,
    add_operation,
    begin_operation,
    fail_operation,
    succeed_operation,
)
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import AttemptExit
from tests.integration.ledger.factories import NOW, TENANT, add_job, failure, make_job, success

EVERYTHING = PageRequest(limit=100, newest_first=False)


def _attempt(job_id: str, number: int = 1, node: str = "n0") -> NewAttempt:
    return NewAttempt(
        job_id=job_id,
        attempt=number,
        node=node,
        gpus=(1, 0),
        worker_id="worker_1",
        replica_id="replica_1",
        start_kind=StartKind.COLD_SSD,
        started_at=NOW,
    )


def _listed(session: Session, wanted: JobFilter, tenant: str | None = TENANT) -> list[str]:
    return [row.id for row in job_lists.list_jobs(session, tenant, wanted, EVERYTHING).rows]


def test_an_attempt_is_recorded_once_and_ends_once(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        assert attempts.start_attempt(session, _attempt(job_id))
        assert not attempts.start_attempt(session, _attempt(job_id, node="n9"))
        assert attempts.start_attempt(session, _attempt(job_id, 2, node="n1"))
        lost, ended = AttemptExit.WORKER_LOST, AttemptExit.JOB_ENDED
        assert attempts.end_attempt(session, job_id, 1, at=NOW, exit_reason=lost, num_tokens=4)
        assert not attempts.end_attempt(session, job_id, 1, at=NOW, exit_reason=ended, num_tokens=9)
        first, second = attempts.list_attempts(session, job_id)
        assert (first.node, first.gpus, first.exit_reason, first.num_tokens) == ("n0", [1, 0], lost, 4)
        assert (second.node, second.ended_at) == ("n1", None)


def test_jobs_are_listed_page_by_page_without_gap_or_repetition(database: Database) -> None:
    with database.transaction() as session:
        ids = sorted((add_job(session) for _ in range(5)), reverse=True)
        seen: list[str] = []
        after = None
        while True:
            page = job_lists.list_jobs(session, TENANT, JobFilter(), PageRequest(limit=2, after=after))
            seen += [row.id for row in page.rows]
            after = seen[-1]
            newer = make_job()
            add_job(session, replace(newer, spec=replace(newer.spec, job_id=f"job_z{len(seen)}")))
            if not page.has_more:
                break
        assert seen == ids


def test_a_full_last_page_says_that_there_is_no_more(database: Database) -> None:
    with database.transaction() as session:
        add_job(session)
        assert not job_lists.list_jobs(session, TENANT, JobFilter(), PageRequest(limit=1)).has_more


def test_a_tenant_sees_its_own_jobs_and_an_operator_everybodys(database: Database) -> None:
    other = make_job()
    with database.transaction() as session:
        mine = add_job(session)
        theirs = add_job(session, replace(other, spec=replace(other.spec, tenant="somebody")))
        assert _listed(session, JobFilter()) == [mine]
        assert set(_listed(session, JobFilter(), tenant=None)) == {mine, theirs}


def test_filters_narrow_a_listing(database: Database) -> None:
    special = make_job(client_id="nightly-100%", group_id="group_1", group_index=0)
    special = replace(special, spec=replace(special.spec, model="other", created_ms=special.spec.created_ms + 5000))
    with database.transaction() as session:
        plain, wanted = add_job(session), add_job(session, special)
        jobs.end_job(session, failure(wanted))
        attempts.start_attempt(session, _attempt(wanted, node="n7"))
        for narrow in (
            JobFilter(statuses=frozenset({JobStatus.FAILED, JobStatus.EXPIRED})),
            JobFilter(model="other"),
            JobFilter(node="n7"),
            JobFilter(created_after=NOW),
            JobFilter(group_id="group_1"),
            JobFilter(text="ly-100%"),
        ):
            assert _listed(session, narrow) == [wanted]
        assert _listed(session, JobFilter(text="100_")) == [], "signs that LIKE knows are taken literally"
        assert set(_listed(session, JobFilter())) == {plain, wanted}


def test_content_is_purged_when_its_life_ends_and_the_row_stays_as_a_tombstone(database: Database) -> None:
    with database.transaction() as session:
        short, kept, running = add_job(session, make_job(result_ttl_s=60)), add_job(session), add_job(session)
        jobs.end_jobs(session, [success(short), success(kept)])
        assert job_lists.purge_expired(session, NOW + timedelta(seconds=59)) == 0
        assert job_lists.purge_expired(session, NOW + timedelta(seconds=60)) == 1
        assert job_lists.purge_expired(session, NOW + timedelta(seconds=60)) == 0
        row = jobs.get_job(session, short)
        assert row is not None
        assert (row.prompt, row.output, row.prompt_ids, row.user_metadata) == (None, None, (), {})
        assert (row.status, row.completion_tokens) == (JobStatus.SUCCEEDED, 1)
        for untouched in (kept, running):
            other = jobs.get_job(session, untouched)
            assert other is not None
            assert (other.purged_at, other.prompt) == (None, "Say hi")


def test_a_user_can_have_the_content_of_an_ended_job_of_theirs_deleted(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        assert not job_lists.delete_job_content(session, job_id, TENANT, NOW), "it has not ended"
        jobs.end_job(session, success(job_id))
        assert not job_lists.delete_job_content(session, job_id, "somebody", NOW)
        assert job_lists.delete_job_content(session, job_id, TENANT, NOW)
        assert not job_lists.delete_job_content(session, job_id, TENANT, NOW)


def test_a_purge_takes_no_more_than_its_limit(database: Database) -> None:
    with database.transaction() as session:
        jobs.end_jobs(session, [success(add_job(session, make_job(result_ttl_s=0))) for _ in range(3)])
        assert [job_lists.purge_expired(session, NOW, limit=2) for _ in range(3)] == [2, 1, 0]


def test_a_decision_is_kept_with_its_candidates_and_learns_the_actual_time_once(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        made = [
            Decision(
                id=f"decision_{attempt}",
                job_id=job_id,
                attempt=attempt,
                at=NOW + timedelta(hours=attempt),
                path="load_ssd",
                choice={"node": "n0"},
                candidates=({"node": "n0", "seconds": 0.5}, {"node": "n1", "seconds": 0.9}),
                predicted_s=0.5,
            )
            for attempt in (1, 2)
        ]
        decisions.add_decisions(session, made)
        first_token_at = made[0].at + timedelta(seconds=0.7)
        assert decisions.note_actual_starts(session, made[0].job_id, made[0].attempt, first_token_at)
        assert not decisions.note_actual_starts(session, made[0].job_id, made[0].attempt, first_token_at)
        first, second = decisions.list_decisions(session, EVERYTHING, job_id=job_id).rows
        assert (first.actual_s, second.actual_s) == (0.7, None)
        assert first.candidates[1] == {"node": "n1", "seconds": 0.9}
        assert decisions.purge_decisions(session, made[1].at) == 1


def test_an_audit_row_says_who_changed_what_from_what_to_what(database: Database) -> None:
    entry = AuditEntry(
        id=new_id("audit"),
        at=NOW,
        actor="key_1",
        tenant=TENANT,
        action="model.put",
        target="model:m",
        before={"max_replicas": 1},
        after={"max_replicas": 2},
        request_id="req_1",
    )
    with database.transaction() as session:
        audit.add_audit(session, entry)
    with database.reading() as session:
        (row,) = audit.list_audit(session, EVERYTHING, target="model:m", actor="key_1").rows
        assert (row.action, row.before, row.after, row.at) == (entry.action, entry.before, entry.after, NOW)
        assert audit.list_audit(session, EVERYTHING, actor="somebody").rows == ()


def test_error_codes_of_the_core_fit_the_ledger() -> None:
    assert max(len(code) for code in ErrorCode) <= 64


def test_what_happened_of_itself_is_put_together_newest_first(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        attempts.start_attempt(session, _attempt(job_id))
        lost = AttemptExit.WORKER_LOST
        attempts.end_attempt(session, job_id, 1, at=NOW + timedelta(hours=1), exit_reason=lost, num_tokens=4)
        for number, error in enumerate((None, JobError(code=ErrorCode.DISK_FULL, message="no room"))):
            operation = NewOperation(
                id=new_id("op"), kind="deploy", target="m", args={}, requested_by="ada", created_at=NOW
            )
            add_operation(session, operation)
            begin_operation(session, operation.id, node="n0", now=NOW)
            at = NOW + timedelta(minutes=number)
            if error is None:
                succeed_operation(session, operation.id, attempt=1, result={}, now=at)
            else:
                fail_operation(session, operation.id, attempt=1, error=error, now=at)
        found = happenings(session, since=NOW - timedelta(days=365), limit=10)
    assert [(each.kind, each.is_bad) for each in found] == [
        ("worker_lost", True), ("operation", True), ("operation", False)
    ]  # fmt: skip
    assert found[0].text == "a worker of n0.1+0 was lost with attempt 1, after 4 tokens"
    assert found[1].text == "deploy of m failed: no room"


def test_what_went_wrong_is_found_behind_more_than_fits_of_what_went_well(database: Database) -> None:
    with database.transaction() as session:
        for number, error in enumerate((JobError(code=ErrorCode.DISK_FULL, message="no room"), None, None)):
            operation = NewOperation(
                id=new_id("op"), kind="deploy", target="m", args={}, requested_by="ada", created_at=NOW
            )
            add_operation(session, operation)
            begin_operation(session, operation.id, node="n0", now=NOW)
            at = NOW + timedelta(minutes=number)
            if error is None:
                succeed_operation(session, operation.id, attempt=1, result={}, now=at)
            else:
                fail_operation(session, operation.id, attempt=1, error=error, now=at)
        found = happenings(session, since=NOW - timedelta(days=365), limit=2, only_bad=True)
    assert [each.text for each in found] == ["deploy of m failed: no room"]


def test_the_lives_of_jobs_are_read_back_to_an_instant(database: Database) -> None:
    with database.transaction() as session:
        old, new = make_job(), make_job()
        add_job(session, replace(old, spec=replace(old.spec, job_id=first_id("job", 1))))
        add_job(session, new)
        (life,) = job_lives(session, since=NOW - timedelta(days=365), limit=10)
    assert (life.started_at, life.ended_at, life.start_kind) == (None, None, None)
