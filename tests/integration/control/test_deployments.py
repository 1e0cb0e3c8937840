"""Deployments from their request to the model that serves: the last one wins, and what serves goes on serving."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, update

from sllm_tasks.app import make_app
from sllm_tasks.cluster import Gpu, GpuId, NodeInfo, Tier
from sllm_tasks.config import Settings
from sllm_tasks.control.operations import OperationDesk
from sllm_tasks.control.reconciler import Reconciler
from sllm_tasks.control.results import bytes_per_gpu, refusal
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.errors import ErrorCode
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobStatus, Outcome
from sllm_tasks.ledger import inventory, operations, placements
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.inventory import ModelSettings
from sllm_tasks.ledger.jobs import Ending, NewJob, end_job, insert_job
from sllm_tasks.ledger.keys import ensure_tenant
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import ModelState
from sllm_tasks.ledger.tables import ModelRow, OperationRow, PlacementRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.jobs import Verdict
from sllm_tasks.operations import OperationKind
from sllm_tasks.signing import Signer
from tests.integration.livestate.world import FAR_MS, job_spec
from tests.support.races import run_together

SETTINGS = ModelSettings(
    name="m",
    source="/first",
    engine="instant",
    dtype="auto",
    num_gpus=1,
    max_jobs=4,
    context=64,
    keep_alive_s=1,
    min_replicas=0,
    max_replicas=1,
)
LONG_AGO = timedelta(minutes=1)


class Control:
    """Control over a real ledger and live state, with node agents that are played by hand."""

    def __init__(self, ledger: Database, live: LiveState, live_url: str) -> None:
        self.ledger = ledger
        self.live = live
        dispatcher = Dispatcher(make_app(Settings(redis_url=live_url), "test"), Signer("secret"), live)
        self.desk = OperationDesk(ledger, live, dispatcher)
        self._reconciler = Reconciler(ledger, live, self.desk, ssd_copies=1)
        self._on_ssd: dict[str, set[str]] = {}

    def announce(self, node: str, *digests: str) -> None:
        """Let a node live, with these checkpoints."""
        self._on_ssd.setdefault(node, set()).update(digests)
        info = NodeInfo(name=node, checkpoints=frozenset(self._on_ssd[node]))
        self.live.fleet.beat_node(info, self.live.now_ms())

    def put(self, settings: ModelSettings = SETTINGS, node: str | None = None) -> str:
        """Ask for a deployment as the web process does."""
        operation_id, now = new_id("op"), datetime.now(UTC)
        with self.ledger.transaction() as session:
            inventory.put_model(session, settings, deployment=operation_id, now=now)
            kind, why = OperationKind.DEPLOY, f"superseded by {operation_id}"
            operations.supersede_operations(session, kind, settings.name, why=why, now=now)
            new = operations.NewOperation(
                id=operation_id,
                kind=kind,
                target=settings.name,
                args={**asdict(settings), "node": node},
                requested_by="test",
                created_at=now,
            )
            operations.add_operation(session, new)
        return operation_id

    def claim(self, operation_id: str) -> None:
        """Take an operation as its node's agent does."""
        assert isinstance(self.live.operations.claim(operation_id, 1, "agent", FAR_MS), dict)

    def report(self, operation_id: str, result: dict[str, Any]) -> None:
        """Finish an operation as its node's agent does, and commit it as the ledger writer does."""
        self.live.operations.finish(operation_id, 1, "agent", result)
        self.desk.commit({"operation_id": operation_id, "attempt": 1})

    def deploy(self, settings: ModelSettings = SETTINGS, digest: str = "a") -> str:
        """Deploy from beginning to end."""
        self.announce("node0")
        operation_id = self.put(settings)
        self.desk.step()
        self.claim(operation_id)
        self.announce("node0", digest)
        self.report(operation_id, imported(digest))
        return operation_id

    def reconcile(self) -> None:
        """Reconcile once."""
        self._reconciler.reconcile()

    def model(self) -> ModelRow:
        """The model as it is now."""
        with self.ledger.reading() as session:
            return inventory.get_model(session, "m")

    def operation(self, operation_id: str) -> OperationRow:
        """An operation as it is now."""
        with self.ledger.reading() as session:
            return operations.get_operation(session, operation_id)

    def drops(self) -> list[tuple[str, str | None]]:
        """Checkpoints that are to be deleted, and where."""
        with self.ledger.reading() as session:
            rows = operations.list_operations(session, PageRequest()).rows
        return [(row.target, row.node) for row in rows if row.kind == OperationKind.DROP_CHECKPOINT]

    def delete(self) -> None:
        """Ask for the model to be deleted as the web process does."""
        now = datetime.now(UTC)
        with self.ledger.transaction() as session:
            operations.supersede_operations(session, OperationKind.DEPLOY, "m", why="the model m was deleted", now=now)
            new = operations.NewOperation(
                id=new_id("op"),
                kind=OperationKind.DELETE_MODEL,
                target="m",
                args={},
                requested_by="test",
                created_at=now,
            )
            operations.add_operation(session, new)

    def forget_model(self) -> None:
        """Delete the model, as far as the ledger is concerned."""
        with self.ledger.transaction() as session:
            inventory.note_deleting(session, "m", now=datetime.now(UTC))
            inventory.remove_model(session, "m")

    def let_time_pass(self) -> None:
        """Make placements look as if they had not changed for long."""
        with self.ledger.transaction() as session:
            session.execute(update(PlacementRow).values(updated_at=datetime.now(UTC) - LONG_AGO))


def imported(digest: str) -> dict[str, Any]:
    """What an agent reports after an import."""
    return {
        "digest": digest,
        "architecture": "TestForCausalLM",
        "dtype": "float32",
        "num_bytes": 10,
        "num_parameters": 2,
        "num_partitions": 1,
        "weights_bytes": 8,
        "kv_bytes_per_token": 1,
        "num_layers": 1,
        "gpu_shares": [{"weights_bytes": 8, "num_layers": 1}],
        "max_context": 1024,
        "eos_token_ids": [0],
        "files": {
            "config": "{}",
            "generation_config": None,
            "tokenizer": "{}",
            "tokenizer_config": None,
            "chat_template": None,
        },
    }


BROKEN = {"error": {"code": "checkpoint_corrupt", "message": "broken"}}


@pytest.fixture
def control(database: Database, live: LiveState, live_url: str) -> Control:
    return Control(database, live, live_url)


def test_of_two_deployments_at_once_the_later_one_decides_whoever_ends_last(control: Control) -> None:
    control.announce("node0")
    first = control.put()
    control.desk.step()
    control.claim(first)
    second = control.put(replace(SETTINGS, source="/second", context=32))
    control.desk.step()
    control.claim(second)
    control.report(second, imported("b"))
    control.report(first, imported("a"))
    model = control.model()
    assert (model.state, model.source, model.checkpoint, model.context) == (ModelState.READY, "/second", "b", 32)
    ended = control.operation(first)
    assert (ended.status, ended.error_code) == ("failed", ErrorCode.CONFLICT)
    assert second in str(ended.error_message)
    assert control.operation(second).status == "succeeded"


@pytest.mark.parametrize("is_deleted", [False, True])
def test_whoever_imports_what_is_not_wanted_any_more_loses_the_operation(control: Control, is_deleted: bool) -> None:
    control.announce("node0")
    first = control.put()
    control.desk.step()
    control.claim(first)
    if is_deleted:
        control.delete()
    else:
        control.put()
    assert control.live.operations.beat(first, 1, "agent", {}) is Verdict.OK
    control.desk.step()
    assert control.live.operations.beat(first, 1, "agent", {}) is Verdict.STALE


def test_an_earlier_deployment_that_fails_does_not_fail_the_later_one(control: Control) -> None:
    control.announce("node0")
    first = control.put()
    control.desk.step()
    control.claim(first)
    second = control.put()
    control.report(first, BROKEN)
    assert control.model().state is ModelState.DEPLOYING
    control.desk.step()
    control.claim(second)
    control.report(second, imported("a"))
    assert control.model().state is ModelState.READY


def test_of_deployments_that_are_asked_for_at_the_same_moment_one_is_left_and_the_model_names_it(
    control: Control,
) -> None:
    for _ in range(5):
        asked = run_together([control.put] * 4)
        still_open = [operation_id for operation_id in asked if control.operation(operation_id).ended_at is None]
        assert still_open == [control.model().deployment]


def test_an_end_and_a_later_deployment_at_the_same_moment_agree_about_what_serves(control: Control) -> None:
    control.announce("node0")
    for number in range(5):
        first = control.put(replace(SETTINGS, source=f"/{number}"))
        control.desk.step()
        control.claim(first)
        _, second = run_together([lambda: control.report(first, imported("a")), control.put])  # noqa: B023
        served = control.operation(first).status == "succeeded"
        model = control.model()
        assert (model.deployment, model.source == f"/{number}") == (second, served)
        control.forget_model()


def test_a_first_deployment_that_fails_says_why(control: Control) -> None:
    control.announce("node0")
    operation_id = control.put()
    control.desk.step()
    control.claim(operation_id)
    control.report(operation_id, BROKEN)
    model = control.model()
    assert (model.state, model.error) == (ModelState.FAILED, "broken")


def test_a_result_that_the_ledger_does_not_take_fails_its_operation_and_holds_up_no_other(control: Control) -> None:
    control.announce("node0")
    operation_id = control.put()
    control.desk.step()
    control.claim(operation_id)
    control.report(operation_id, {**imported("a"), "num_bytes": -1})
    ended = control.operation(operation_id)
    assert (ended.status, ended.error_code) == ("failed", ErrorCode.INTERNAL)
    assert control.model().state is ModelState.FAILED
    control.deploy(digest="b")
    assert control.model().checkpoint == "b"


def test_a_model_that_serves_goes_on_while_it_is_deployed_again_and_when_that_fails(control: Control) -> None:
    control.deploy()
    operation_id = control.put(replace(SETTINGS, source="/second", context=16))
    for end in (lambda: None, control.desk.step, lambda: control.claim(operation_id)):
        end()
        model = control.model()
        assert (model.state, model.source, model.checkpoint, model.context) == (ModelState.READY, "/first", "a", 64)
    control.report(operation_id, BROKEN)
    model = control.model()
    assert (model.state, model.source, model.checkpoint, model.error) == (ModelState.READY, "/first", "a", None)
    assert control.operation(operation_id).error_message == "broken"


def test_a_checkpoint_that_does_not_fit_is_refused_and_cleared_away(control: Control) -> None:
    control.deploy()
    operation_id = control.put(replace(SETTINGS, engine="none_of_that_name"))
    control.desk.step()
    control.claim(operation_id)
    control.announce("node0", "b")
    control.report(operation_id, imported("b"))
    assert control.operation(operation_id).error_code is ErrorCode.INVALID_REQUEST
    control.reconcile()
    assert control.drops() == [], "not at once"
    control.let_time_pass()
    control.reconcile()
    assert control.drops() == [("b", "node0")]


def test_a_replica_reserves_the_batch_one_prompt_more_and_its_largest_buffer_twice() -> None:
    settings = replace(SETTINGS, max_jobs=3)
    result = {**imported("a"), "kv_bytes_per_token": 40, "num_layers": 2}
    result["gpu_shares"] = [{"weights_bytes": 1000, "num_layers": 2}]
    assert bytes_per_gpu(settings, result, 10) == 1000 + 40 * 4 * 10 + 40 * 4 * 10 // 4


def test_of_several_gpus_the_one_that_gets_most_says_what_a_replica_reserves_on_each() -> None:
    settings = replace(SETTINGS, max_jobs=3, num_gpus=3)
    result = {**imported("a"), "kv_bytes_per_token": 40, "num_layers": 4}
    shares = [(100, 3), (700, 1), (1100, 0)]
    result["gpu_shares"] = [{"weights_bytes": weights, "num_layers": layers} for weights, layers in shares]
    # Keys and values of the batch and one prompt: 400 bytes a layer, and once more the keys or the values.
    assert bytes_per_gpu(settings, result, 10) == 100 + 3 * 400 + 200


@pytest.mark.parametrize(
    ("capacities", "reason"),
    [
        ({"node0": [100, 100]}, None),
        ({"node0": [100], "node1": [100]}, "no node has so many"),
        ({"node0": [100, 10], "node1": [20, 20]}, "no node has 2 of more than 20"),
        ({}, None),
    ],
)
def test_a_model_for_several_gpus_needs_a_node_with_so_many(
    capacities: dict[str, list[int]], reason: str | None
) -> None:
    gpus = [
        Gpu(id=GpuId(node, index), worker_id="w", device="cpu", capacity_bytes=capacity)
        for node, sizes in capacities.items()
        for index, capacity in enumerate(sizes)
    ]
    row = OperationRow(args=asdict(replace(SETTINGS, num_gpus=2, max_jobs=1, context=1)))
    error = refusal(row, {**imported("a"), "gpu_shares": 2 * [{"weights_bytes": 40, "num_layers": 1}]}, gpus)
    if reason is None:
        assert error is None
    else:
        assert error is not None
        assert reason in error.message


def test_a_former_checkpoint_stays_while_a_job_needs_it(control: Control) -> None:
    control.deploy()
    control.reconcile()
    with control.ledger.transaction() as session:
        ensure_tenant(session, "t", now=datetime.now(UTC))
        insert_job(session, NewJob(spec=job_spec(checkpoint="a")))
    control.deploy(replace(SETTINGS, source="/second"), "b")
    for _ in range(2):
        control.reconcile()
        control.let_time_pass()
    assert control.drops() == []
    with control.ledger.transaction() as session:
        end_job(session, Ending(job_id="job_1", outcome=Outcome(status=JobStatus.CANCELED), at=datetime.now(UTC)))
    for _ in range(2):
        control.reconcile()
        control.let_time_pass()
    assert control.drops() == [("a", "node0")]


def test_a_job_that_is_accepted_for_a_former_checkpoint_at_the_last_moment_keeps_it(control: Control) -> None:
    control.deploy()
    control.reconcile()
    control.deploy(replace(SETTINGS, source="/second"), "b")
    control.reconcile()
    with control.ledger.transaction() as session:
        ensure_tenant(session, "t", now=datetime.now(UTC))
        insert_job(session, NewJob(spec=job_spec(checkpoint="a")))
    control.let_time_pass()
    control.reconcile()
    assert control.drops() == []


def test_nothing_is_dropped_while_a_deployment_runs_and_none_begins_where_something_is_dropped(
    control: Control,
) -> None:
    control.deploy()
    control.reconcile()
    control.deploy(replace(SETTINGS, source="/second"), "b")
    control.reconcile()
    control.let_time_pass()
    waits = control.put()
    control.reconcile()
    assert control.drops() == []
    control.desk.step()
    control.claim(waits)
    control.report(waits, BROKEN)
    control.reconcile()
    assert control.drops() == [("a", "node0")]
    again = control.put()
    control.desk.step()
    assert control.operation(again).status == "pending"


def test_a_deployment_does_not_wait_behind_many_copies(control: Control) -> None:
    control.announce("node0")
    now = datetime.now(UTC)
    with control.ledger.transaction() as session:
        for number in range(20):
            new = operations.NewOperation(
                id=f"op_{number:02}", kind=OperationKind.FETCH, target=f"digest{number}", args={"node": "node0"},
                requested_by="control", created_at=now - timedelta(minutes=1),
            )  # fmt: skip
            operations.add_operation(session, new)
    operation_id = control.put()
    control.desk.step()
    assert control.operation(operation_id).status == "running"
    assert control.operation("op_19").status == "pending"


# SQLite has one writer: nobody commits meanwhile.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_deployment_that_is_committed_while_copies_are_looked_at_keeps_its_own(control: Control) -> None:
    control.deploy()
    control.reconcile()
    control.forget_model()
    control.reconcile()
    control.let_time_pass()
    operation_id = control.put()
    control.desk.step()
    control.claim(operation_id)
    looked = []

    @event.listens_for(Engine, "before_cursor_execute")
    def commit(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        # The question whether a deployment runs.
        if "EXISTS" in statement and "operations" in statement and not looked:
            looked.append(statement)
            control.report(operation_id, imported("a"))

    try:
        control.reconcile()
    finally:
        event.remove(Engine, "before_cursor_execute", commit)
    assert len(looked) == 1
    assert (control.model().checkpoint, control.drops()) == ("a", [])


def test_the_only_copy_that_lives_stays_though_another_node_should_have_it(control: Control) -> None:
    control.deploy()
    control.reconcile()
    with control.ledger.transaction() as session:
        now = datetime.now(UTC)
        placements.want_placement(session, "a", "node0", tier=None, pinned=False, now=now)
        placements.want_placement(session, "a", "gone", tier=Tier.SSD, pinned=False, now=now)
    control.let_time_pass()
    control.reconcile()
    assert control.drops() == []


def test_a_deployment_that_names_an_unknown_node_fails_soon_with_those_that_are_known(control: Control) -> None:
    control.announce("node0")
    control.announce("node1")
    operation_id = control.put(node="nodeO")
    control.desk.step()
    assert control.operation(operation_id).status == "pending", "it may be about to come up"
    with control.ledger.transaction() as session:
        created_at = datetime.now(UTC) - timedelta(seconds=6)
        session.execute(update(OperationRow).where(OperationRow.id == operation_id).values(created_at=created_at))
    control.desk.step()
    ended = control.operation(operation_id)
    assert (ended.status, ended.error_message) == ("failed", "there is no node 'nodeO'; known: node0, node1")
