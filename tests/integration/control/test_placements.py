"""Wanted placements become operations of their nodes: one at a time each, less and less often while they fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, event

from sllm_tasks.app import make_app
from sllm_tasks.cluster import NodeInfo, Tier, TierUsage
from sllm_tasks.config import Settings
from sllm_tasks.control.operations import OperationDesk
from sllm_tasks.control.reconciler import LOST_AFTER, Reconciler
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.errors import ErrorCode
from sllm_tasks.ledger import inventory, operations, placements
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.placement_progress import PlacementProgress, placement_progress
from sllm_tasks.ledger.states import OperationStatus
from sllm_tasks.ledger.tables import OperationRow, PlacementRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.operations import OperationKind
from sllm_tasks.policy.placement import Proposal
from sllm_tasks.proposals import want_proposals
from sllm_tasks.signing import Signer
from tests.integration.ledger.factories import add_job, make_checkpoint
from tests.integration.livestate.world import FAR_MS

DIGEST = make_checkpoint().digest
FULL = {"error": {"code": "disk_full", "message": "the SSD is full"}}


class Control:
    """Control over a real ledger and live state, with node agents that are played by hand."""

    def __init__(
        self,
        ledger: Database,
        live: LiveState,
        live_url: str,
        *,
        follows_popularity: bool = False,
        lost_after: timedelta = LOST_AFTER,
        source: str = "/models/m",
    ) -> None:
        self.ledger = ledger
        self.live = live
        dispatcher = Dispatcher(make_app(Settings(redis_url=live_url), "test"), Signer("secret"), live)
        self.desk = OperationDesk(ledger, live, dispatcher)
        self._reconciler = Reconciler(
            ledger, live, self.desk, ssd_copies=1, follows_popularity=follows_popularity, lost_after=lost_after
        )
        with ledger.transaction() as session:
            inventory.add_checkpoint(session, replace(make_checkpoint(), source=source))

    def announce(self, node: str, *, ssd: str = "", dram: str = "", kept: str = "", free_bytes: int = 1 << 42) -> None:
        """Let a node live, with these checkpoints."""
        info = NodeInfo(
            name=node,
            checkpoints=frozenset(ssd.split()),
            in_dram=frozenset(dram.split()),
            kept_in_dram=frozenset(kept.split()),
            ssd=TierUsage(capacity_bytes=1 << 42, used_bytes=(1 << 42) - free_bytes),
        )
        self.live.fleet.beat_node(info, self.live.now_ms())

    def silence(self, node: str) -> None:
        """Let the agent of a node die."""
        self.live.fleet.beat_node(NodeInfo(name=node, checkpoints=frozenset()), 0)

    def want(self, tier: Tier | None, node: str = "n0", *, pinned: bool = True) -> None:
        """Want the checkpoint on a node."""
        with self.ledger.transaction() as session:
            placements.want_placement(session, DIGEST, node, tier=tier, pinned=pinned, now=datetime.now(UTC))

    def pass_by(self) -> list[str]:
        """Reconcile once; the kinds of operations that have not ended, the oldest first."""
        self._reconciler.reconcile()
        self.desk.step()
        return [row.kind for row in reversed(self.operations()) if row.ended_at is None]

    def operations(self) -> Sequence[OperationRow]:
        """All operations, the newest first."""
        with self.ledger.reading() as session:
            return operations.list_operations(session, PageRequest(limit=100)).rows

    def finish(self, result: dict[str, object]) -> None:
        """Run the newest operation as its node's agent does, and commit what came of it."""
        row = self.operations()[0]
        assert isinstance(self.live.operations.claim(row.id, row.attempts, "agent", FAR_MS), dict)
        self.live.operations.finish(row.id, row.attempts, "agent", result)
        self.desk.commit({"operation_id": row.id, "attempt": row.attempts})

    def progress(self, node: str = "n0") -> PlacementProgress:
        """What is being done about the placement on a node."""
        with self.ledger.reading() as session:
            rows = placements.list_placements(session, node=node)
            return placement_progress(session, rows, datetime.now(UTC))[DIGEST, node]

    def pause_s(self) -> float:
        """How long the next attempt waits after the last failure."""
        retry_at, ended_at = self.progress().retry_at, self.operations()[0].ended_at
        assert retry_at is not None
        assert ended_at is not None
        return (retry_at - ended_at).total_seconds()

    def let_time_pass(self, time: timedelta) -> None:
        """Make everything look as if it had happened earlier."""
        with self.ledger.transaction() as session:
            for row in operations.list_operations(session, PageRequest(limit=100)).rows:
                row.created_at -= time
                row.ended_at = None if row.ended_at is None else row.ended_at - time
            for placement in placements.list_placements(session):
                placement.updated_at -= time

    def placement(self, node: str = "n0") -> PlacementRow | None:
        """The placement on a node."""
        with self.ledger.reading() as session:
            return next(iter(placements.list_placements(session, node=node)), None)


@pytest.fixture
def control(database: Database, live: LiveState, live_url: str) -> Control:
    return Control(database, live, live_url)


def test_a_checkpoint_comes_to_the_ssd_first_and_to_dram_next(control: Control) -> None:
    control.announce("n0")
    control.want(Tier.DRAM)
    assert control.pass_by() == [OperationKind.FETCH]
    assert control.pass_by() == [OperationKind.FETCH], "one at a time"
    control.finish({"digest": DIGEST})
    control.announce("n0", ssd=DIGEST)
    control.let_time_pass(timedelta(seconds=5))
    assert control.pass_by() == [OperationKind.PREFETCH]
    control.finish({"digest": DIGEST, "num_bytes": 1, "read_bytes": 0, "seconds": 1.0})
    control.announce("n0", ssd=DIGEST, dram=DIGEST, kept=DIGEST)
    assert control.pass_by() == []
    placement = control.placement()
    assert placement is not None
    assert placement.actual is Tier.DRAM


def test_what_is_wanted_on_the_ssd_only_is_kept_in_dram_no_longer(control: Control) -> None:
    control.announce("n0", ssd=DIGEST, dram=DIGEST, kept=DIGEST)
    control.want(Tier.SSD)
    assert control.pass_by() == [OperationKind.EVICT]
    control.finish({"digest": DIGEST})
    control.announce("n0", ssd=DIGEST, dram=DIGEST)
    assert control.pass_by() == []


def test_each_failure_in_a_row_makes_the_next_attempt_wait_longer_up_to_ten_minutes(control: Control) -> None:
    control.announce("n0")
    control.want(Tier.SSD)
    pauses = []
    for _ in range(7):
        control.announce("n0")
        assert control.pass_by() == [OperationKind.FETCH]
        control.finish(FULL)
        assert control.pass_by() == []
        pauses.append(control.pause_s())
        control.let_time_pass(timedelta(seconds=pauses[-1] + 1))
    assert pauses == [5, 15, 45, 135, 405, 600, 600]
    error = control.progress().error
    assert error is not None
    assert (error.code, error.message) == (ErrorCode.DISK_FULL, "the SSD is full")


def test_what_an_operator_says_anew_is_tried_at_once(control: Control) -> None:
    control.announce("n0")
    control.want(Tier.SSD)
    control.pass_by()
    control.finish(FULL)
    control.let_time_pass(timedelta(seconds=2))
    assert control.pass_by() == []
    control.want(Tier.SSD)
    assert control.pass_by() == [OperationKind.FETCH]


def test_a_copy_that_was_put_aside_as_damaged_is_fetched_again(control: Control) -> None:
    control.announce("n0", ssd=DIGEST)
    control.announce("n1", ssd=DIGEST)
    control.want(Tier.SSD)
    assert control.pass_by() == []
    control.announce("n0")
    assert control.pass_by() == [OperationKind.FETCH]
    placement = control.placement()
    assert placement is not None
    assert placement.actual is None


def test_nothing_is_asked_of_a_node_that_does_not_live(control: Control) -> None:
    control.want(Tier.SSD, "gone")
    control.announce("n0", ssd=DIGEST)
    assert control.pass_by() == []


def test_a_node_gets_no_more_operations_at_once_than_its_agent_runs(control: Control) -> None:
    control.announce("n0")
    now = datetime.now(UTC)
    with control.ledger.transaction() as session:
        for number in range(7):
            digest = f"{number}" * 64
            inventory.add_checkpoint(session, make_checkpoint(digest))
            placements.want_placement(session, digest, "n0", tier=Tier.SSD, pinned=True, now=now)
    assert len(control.pass_by()) == 7
    assert [row.status for row in control.operations()].count(OperationStatus.RUNNING) == 4


def test_what_is_not_wanted_somewhere_is_not_brought_there_by_the_policy_of_copies(control: Control) -> None:
    control.announce("n0", ssd=DIGEST)
    control.announce("n1")
    serve(control)
    control.want(None, "n0")
    assert control.pass_by() == [OperationKind.FETCH], "on the other node"
    placement = control.placement("n1")
    assert placement is not None
    assert placement.desired is Tier.SSD
    control.let_time_pass(timedelta(minutes=1))
    control.announce("n0", ssd=DIGEST)
    control.announce("n1", ssd=DIGEST)
    assert OperationKind.DROP_CHECKPOINT in control.pass_by()


def test_the_last_copy_of_what_a_model_serves_stays(control: Control) -> None:
    control.announce("n0", ssd=DIGEST)
    serve(control)
    control.want(None, "n0")
    control.let_time_pass(timedelta(minutes=1))
    control.announce("n0", ssd=DIGEST)
    assert control.pass_by() == []


def test_copies_go_where_there_is_room(control: Control) -> None:
    control.announce("n0", free_bytes=0)
    control.announce("n1")
    serve(control)
    control.pass_by()
    assert (control.placement("n0"), control.placement("n1") is not None) == (None, True)


def test_a_popular_checkpoint_gets_another_copy_if_the_cluster_follows_popularity(
    database: Database, live: LiveState, live_url: str
) -> None:
    control = Control(database, live, live_url, follows_popularity=True)
    control.announce("n0", ssd=DIGEST)
    control.announce("n1")
    serve(control)
    with control.ledger.transaction() as session:
        for _ in range(50):
            add_job(session)
    assert control.pass_by() == [OperationKind.FETCH]
    placement = control.placement("n1")
    assert placement is not None
    assert (placement.desired, placement.pinned) == (Tier.SSD, False)


def test_jobs_are_accepted_while_those_of_the_last_day_are_counted_for_popularity(
    database: Database, database_url: str, live: LiveState, live_url: str
) -> None:
    control = Control(database, live, live_url, follows_popularity=True)
    control.announce("n0", ssd=DIGEST)
    serve(control)
    web, counted = Database(database_url, timeout_s=0.5), []

    @event.listens_for(Engine, "before_cursor_execute")
    def accept(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "count(" in statement and "jobs" in statement and not counted:
            counted.append(statement)
            with web.transaction() as session:
                add_job(session)

    try:
        control.pass_by()
    finally:
        event.remove(Engine, "before_cursor_execute", accept)
        web.close()
    assert len(counted) == 1


def test_what_is_pinned_while_popularity_is_looked_at_stays_as_it_was_pinned(control: Control) -> None:
    control.announce("n0")
    control.want(None)
    proposal = Proposal(checkpoint=DIGEST, node="n0", desired=None, proposed=Tier.SSD)
    with control.ledger.transaction() as session:
        want_proposals(session, [proposal], datetime.now(UTC))
    placement = control.placement("n0")
    assert placement is not None
    assert (placement.desired, placement.pinned) == (None, True)


@pytest.mark.parametrize(("source", "comes"), [("s3://bucket/m", [OperationKind.FETCH]), ("/models/m", [])])
def test_what_a_lost_node_alone_had_comes_to_another_one_from_its_url_if_it_has_one(
    database: Database, live: LiveState, live_url: str, source: str, comes: list[OperationKind]
) -> None:
    control = Control(database, live, live_url, lost_after=timedelta(0), source=source)
    control.announce("n0", ssd=DIGEST)
    serve(control)
    assert control.pass_by() == []
    control.silence("n0")
    control.announce("n1")
    assert control.pass_by() == comes
    if comes:
        assert control.operations()[0].args == {"node": "n1", "source": source, "num_gpus": 1}


def test_what_a_lost_node_had_is_copied_from_those_that_live(
    database: Database, live: LiveState, live_url: str
) -> None:
    control = Control(database, live, live_url, lost_after=timedelta(0))
    control.announce("n0", ssd=DIGEST)
    serve(control)
    control.pass_by()
    control.silence("n0")
    control.announce("n1", ssd=DIGEST)
    assert control.pass_by() == []
    placement = control.placement("n1")
    assert placement is not None
    assert placement.desired is Tier.SSD, "wanted where it is already"


def test_a_node_that_starts_again_keeps_what_it_has(control: Control) -> None:
    control.announce("n0", ssd=DIGEST)
    serve(control)
    control.pass_by()
    control.silence("n0")
    control.announce("n1", ssd=DIGEST)
    control.pass_by()
    placement = control.placement("n1")
    assert placement is not None
    assert placement.desired is None


def test_a_placement_that_is_neither_wanted_nor_there_is_forgotten(control: Control) -> None:
    control.announce("n0")
    control.want(None, "n0")
    control.pass_by()
    assert control.placement("n0") is None


def serve(control: Control) -> None:
    """Let a model be served from the checkpoint."""
    settings = inventory.ModelSettings(
        name="m", source="/m", engine="instant", dtype="auto", num_gpus=1, max_jobs=1, context=16, keep_alive_s=1,
        min_replicas=0, max_replicas=1,
    )  # fmt: skip
    deployed = inventory.DeployedModel(
        checkpoint=DIGEST, weights_bytes=1, kv_bytes_per_token=1, bytes_per_gpu=1, context=16, dtype="float32"
    )
    now = datetime.now(UTC)
    with control.ledger.transaction() as session:
        inventory.put_model(session, settings, deployment="op_1", now=now)
        inventory.note_deployed(session, settings, deployed, deployment="op_1", now=now)
