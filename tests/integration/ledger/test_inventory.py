from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from sllm_tasks.cluster import Tier
from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import Exactness
from sllm_tasks.ledger import inventory, loads, placements
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.inventory import ModelSettings, ServingSettings
from sllm_tasks.ledger.jobs import end_job
from sllm_tasks.ledger.loads import MeasuredLoad
from sllm_tasks.ledger.states import ModelState
from tests.integration.ledger.factories import DEPLOYED, NOW, add_job, make_checkpoint, make_model, success

DIGEST = "sha256:c"


def _deploy(session: Session) -> None:
    inventory.add_checkpoint(session, make_checkpoint())
    inventory.put_model(session, make_model(), deployment="op_1", now=NOW)
    assert inventory.note_deployed(session, make_model(), DEPLOYED, deployment="op_1", now=NOW)


def test_a_checkpoint_is_recorded_once_and_comes_back_with_its_files(database: Database) -> None:
    with database.transaction() as session:
        assert inventory.add_checkpoint(session, make_checkpoint())
        assert not inventory.add_checkpoint(session, replace(make_checkpoint(), source="elsewhere"))
    with database.reading() as session:
        row = inventory.get_checkpoint(session, DIGEST)
        assert (row.source, row.num_bytes, row.eos_token_ids) == ("/models/m", 2 * 2**40, [2, 3])
        assert row.tokenizer == '{"model": {}}'
        with pytest.raises(NotFoundError):
            inventory.get_checkpoint(session, "sha256:unknown")


def test_a_checkpoint_that_came_from_a_url_too_can_come_from_there_again(database: Database) -> None:
    with database.transaction() as session:
        for source in ("/models/m", "https://one/m", "https://two/m", "/models/copy"):
            inventory.add_checkpoint(session, replace(make_checkpoint(), source=source))
    with database.reading() as session:
        (checkpoint,) = inventory.list_checkpoints(session)
        assert (checkpoint.source, checkpoint.came_from_url) == ("https://two/m", True)


def test_a_model_takes_jobs_only_once_it_is_deployed(database: Database) -> None:
    with database.transaction() as session:
        inventory.add_checkpoint(session, make_checkpoint())
        assert inventory.put_model(session, make_model(), deployment="op_1", now=NOW, seen_version=0)
        assert inventory.list_models(session, ready_only=True) == []
        with pytest.raises(ConflictError):
            inventory.model_info(inventory.get_model(session, "m"))
        assert inventory.note_deployed(session, make_model(), DEPLOYED, deployment="op_1", now=NOW)
        (ready,) = inventory.list_models(session, ready_only=True)
        info = inventory.model_info(ready)
        assert (info.name, info.checkpoint, info.bytes_per_gpu, info.context) == ("m", DIGEST, 2**42, 1024)


def test_a_model_that_must_be_new_conflicts_with_one_that_exists(database: Database) -> None:
    with database.transaction() as session:
        inventory.put_model(session, make_model(), deployment="op_1", now=NOW)
        with pytest.raises(ConflictError):
            inventory.put_model(session, make_model(), deployment="op_1", now=NOW, seen_version=0)
        with pytest.raises(ConflictError):
            inventory.put_model(session, make_model(), deployment="op_1", now=NOW, seen_version=7)
        fewer = replace(make_model(), max_jobs=2)
        assert not inventory.put_model(session, fewer, deployment="op_1", now=NOW, seen_version=1)
        row = inventory.get_model(session, "m")
        assert (row.max_jobs, row.version) == (2, 2)


def test_a_version_that_was_seen_of_a_model_that_is_gone_makes_no_new_one(database: Database) -> None:
    with database.transaction() as session, pytest.raises(ConflictError):
        inventory.put_model(session, make_model(), deployment="op_1", now=NOW, seen_version=3)


def test_a_failed_deployment_says_why_and_can_be_tried_again(database: Database) -> None:
    with database.transaction() as session:
        inventory.put_model(session, make_model(), deployment="op_1", now=NOW)
        assert inventory.note_deploy_failed(session, "m", "no such architecture", deployment="op_1", now=NOW)
        over = inventory.note_deployed(session, make_model(), DEPLOYED, deployment="op_2", now=NOW)
        assert not over, "of another deployment"
        row = inventory.get_model(session, "m")
        assert (row.state, row.error) == (ModelState.FAILED, "no such architecture")
        inventory.put_model(session, make_model(), deployment="op_1", now=NOW)
        row = inventory.get_model(session, "m")
        assert (row.state, row.error) == (ModelState.DEPLOYING, None)


def test_a_deployment_that_is_not_the_last_one_asked_for_changes_nothing(database: Database) -> None:
    with database.transaction() as session:
        inventory.add_checkpoint(session, make_checkpoint())
        inventory.put_model(session, make_model(), deployment="op_1", now=NOW)
        inventory.put_model(session, replace(make_model(), source="/second"), deployment="op_2", now=NOW)
        assert not inventory.note_deploy_failed(session, "m", "broken", deployment="op_1", now=NOW)
        assert not inventory.note_deployed(session, make_model(), DEPLOYED, deployment="op_1", now=NOW)
        row = inventory.get_model(session, "m")
        assert (row.state, row.source, row.checkpoint) == (ModelState.DEPLOYING, "/second", None)


def test_a_deployment_of_a_model_that_was_deleted_and_made_again_changes_nothing(database: Database) -> None:
    with database.transaction() as session:
        inventory.add_checkpoint(session, make_checkpoint())
        inventory.put_model(session, make_model(), deployment="op_1", now=NOW)
        inventory.note_deleting(session, "m", now=NOW)
        assert not inventory.note_deployed(session, make_model(), DEPLOYED, deployment="op_1", now=NOW)
        inventory.remove_model(session, "m")
        assert not inventory.note_deployed(session, make_model(), DEPLOYED, deployment="op_1", now=NOW)
        inventory.put_model(session, make_model(), deployment="op_2", now=NOW)
        assert not inventory.note_deployed(session, make_model(), DEPLOYED, deployment="op_1", now=NOW)
        assert inventory.get_model(session, "m").state is ModelState.DEPLOYING


def test_a_model_serves_what_it_has_until_it_is_deployed_anew_and_after_that_failed(database: Database) -> None:
    longer = replace(make_model(), context=4096, max_jobs=2, source="/second")
    with database.transaction() as session:
        _deploy(session)
        inventory.put_model(session, longer, deployment="op_2", now=NOW)
        (row,) = inventory.list_models(session, ready_only=True)
        assert (row.source, row.context, row.max_jobs, row.deployment) == ("/models/m", 1024, 8, "op_2")
        assert not inventory.note_deploy_failed(session, "m", "broken", deployment="op_2", now=NOW)
        (row,) = inventory.list_models(session, ready_only=True)
        assert (row.source, row.context, row.max_jobs, row.error) == ("/models/m", 1024, 8, None)


def test_settings_and_checkpoint_change_together(database: Database) -> None:
    longer = replace(make_model(), context=4096, max_jobs=2, source="/second")
    with database.transaction() as session:
        _deploy(session)
        inventory.add_checkpoint(session, make_checkpoint("sha256:d"))
        inventory.put_model(session, longer, deployment="op_2", now=NOW)
        deployed = replace(DEPLOYED, checkpoint="sha256:d", context=4096, bytes_per_gpu=7)
        assert inventory.note_deployed(session, longer, deployed, deployment="op_2", now=NOW)
        row = inventory.get_model(session, "m")
        assert (row.source, row.checkpoint, row.context, row.max_jobs) == ("/second", "sha256:d", 4096, 2)
        assert inventory.model_info(row).shape.bytes_per_gpu == 7


def test_settings_come_back_from_the_arguments_of_an_operation() -> None:
    settings = replace(make_model(), exactness=Exactness.EXACT)
    stored = json.loads(json.dumps({**asdict(settings), "node": None}))
    assert ModelSettings.from_args(stored) == settings


def test_replicas_and_keep_alive_change_while_a_model_serves(database: Database) -> None:
    serving = ServingSettings(keep_alive_s=5.0, min_replicas=1, max_replicas=2)
    with database.transaction() as session:
        _deploy(session)
        version = inventory.get_model(session, "m").version
        assert inventory.change_serving(session, "m", serving, seen_version=version, now=NOW)
        assert not inventory.change_serving(session, "m", serving, seen_version=version, now=NOW)
        row = inventory.get_model(session, "m")
        assert (row.state, row.keep_alive_s, row.min_replicas) == (ModelState.READY, 5.0, 1)


def test_a_model_is_removed_only_after_it_stopped_taking_jobs(database: Database) -> None:
    with database.transaction() as session:
        _deploy(session)
        assert not inventory.remove_model(session, "m")
        assert inventory.note_deleting(session, "m", now=NOW)
        assert not inventory.note_deleting(session, "m", now=NOW)
        with pytest.raises(ConflictError):
            inventory.put_model(session, make_model(), deployment="op_1", now=NOW)
        assert inventory.remove_model(session, "m")
        with pytest.raises(NotFoundError):
            inventory.get_model(session, "m")


def test_a_checkpoint_is_kept_while_a_model_uses_it_and_takes_its_placements_along(database: Database) -> None:
    with database.transaction() as session:
        _deploy(session)
        placements.note_placement(session, DIGEST, "n0", tier=Tier.SSD, now=NOW)
        with pytest.raises(ConflictError):
            inventory.delete_checkpoint(session, DIGEST)
        inventory.note_deleting(session, "m", now=NOW)
        inventory.remove_model(session, "m")
        assert inventory.delete_checkpoint(session, DIGEST)
        assert not inventory.delete_checkpoint(session, DIGEST)
        assert placements.list_placements(session) == []


def test_a_placement_is_met_when_what_is_there_is_what_is_wanted_or_more(database: Database) -> None:
    def is_met(session: Session) -> bool:
        (row,) = placements.list_placements(session, checkpoint=DIGEST, node="n0")
        return placements.is_met(row)

    with database.transaction() as session:
        inventory.add_checkpoint(session, make_checkpoint())
        placements.want_placement(session, DIGEST, "n0", tier=Tier.DRAM, pinned=True, now=NOW)
        assert not is_met(session)
        placements.note_placement(session, DIGEST, "n0", tier=Tier.SSD, now=NOW)
        assert not is_met(session)
        placements.note_placement(session, DIGEST, "n0", tier=Tier.DRAM, now=NOW)
        assert is_met(session)
        (row,) = placements.list_placements(session, checkpoint=DIGEST, node="n0")
        assert row.pinned, "a report does not undo what an operator said"
        placements.want_placement(session, DIGEST, "n0", tier=Tier.SSD, pinned=False, now=NOW)
        assert is_met(session)
        placements.want_placement(session, DIGEST, "n0", tier=None, pinned=False, now=NOW)
        assert not is_met(session)


def test_a_checkpoint_is_awaited_by_jobs_that_have_not_ended(database: Database) -> None:
    with database.transaction() as session:
        job_id = add_job(session)
        assert placements.awaited_checkpoints(session, {DIGEST, "sha256:other"}) == {DIGEST}
        assert placements.awaited_checkpoints(session, {"sha256:other"}) == frozenset()
        end_job(session, success(job_id))
        assert placements.awaited_checkpoints(session, {DIGEST}) == frozenset()


def test_a_placement_is_forgotten_only_when_it_is_neither_wanted_nor_there(database: Database) -> None:
    with database.transaction() as session:
        inventory.add_checkpoint(session, make_checkpoint())
        placements.want_placement(session, DIGEST, "n0", tier=Tier.SSD, pinned=False, now=NOW)
        assert not placements.remove_placement(session, DIGEST, "n0")
        placements.want_placement(session, DIGEST, "n0", tier=None, pinned=False, now=NOW)
        assert placements.remove_placement(session, DIGEST, "n0")


def test_the_last_measurement_of_each_tier_of_each_node_counts(database: Database) -> None:
    def measured(node: str, tier: Tier, hour: int, gpu: int | None = None) -> MeasuredLoad:
        return MeasuredLoad(
            id=new_id("load"), checkpoint=DIGEST, node=node, gpu=gpu, tier=tier, num_bytes=hour, seconds=1.0,
            at=NOW + timedelta(hours=hour),
        )  # fmt: skip

    expected = [measured("n0", Tier.SSD, 2), measured("n0", Tier.DRAM, 1), measured("n1", Tier.SSD, 1)]
    with database.transaction() as session:
        loads.add_loads(session, [*expected, measured("n0", Tier.SSD, 1), measured("n0", Tier.SSD, 3, gpu=0)])
        found = loads.tier_measurements(session)
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def test_recent_loads_come_oldest_first_and_old_ones_can_be_forgotten(database: Database) -> None:
    measured = [
        MeasuredLoad(
            id=new_id("load"),
            checkpoint=DIGEST,
            node="n0",
            gpu=None if hour else 0,
            tier=Tier.SSD,
            num_bytes=2**40,
            seconds=0.1 + hour,
            at=NOW + timedelta(hours=hour),
        )
        for hour in range(4)
    ]
    with database.transaction() as session:
        loads.add_loads(session, measured)
    with database.transaction() as session:
        assert loads.recent_loads(session, since=NOW) == measured
        assert loads.recent_loads(session, since=NOW, limit=2) == measured[2:]
        assert loads.purge_loads(session, measured[2].at) == 2
        assert loads.recent_loads(session, since=NOW) == measured[2:]
