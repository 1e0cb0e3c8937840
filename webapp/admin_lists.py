"""What exists and how it is, as the API and the admin UI list it."""

from __future__ import annotations

from datetime import UTC, datetime

from sllm_tasks.cluster import EVERY_MODEL
from sllm_tasks.ledger.inventory import list_checkpoints, list_models
from sllm_tasks.ledger.loads import tier_measurements
from sllm_tasks.ledger.operations import operations_by_id
from sllm_tasks.ledger.placement_progress import PlacementProgress, placement_progress
from sllm_tasks.ledger.placements import is_met, list_placements
from sllm_tasks.ledger.queues import paused_queues
from sllm_tasks.proposals import placement_proposals
from webapp.admin_json import (
    AdminJson,
    checkpoint_json,
    model_json,
    nodes_json,
    placement_json,
    proposal_json,
    queue_json,
)
from webapp.services import WebServices


def models_now(web: WebServices) -> list[AdminJson]:
    """All models by name, each with the deployment that was asked for last."""
    with web.ledger.reading() as session:
        rows = list_models(session)
        deployments = operations_by_id(session, [row.deployment for row in rows])
        return [model_json(row, deployments.get(row.deployment)) for row in rows]


def checkpoints_now(web: WebServices) -> list[AdminJson]:
    """All checkpoints, newest first."""
    with web.ledger.reading() as session:
        return [checkpoint_json(row) for row in list_checkpoints(session)]


def nodes_now(web: WebServices, asked: str | None = None) -> list[AdminJson]:
    """All nodes by name, the one `asked` for among them though it is gone."""
    with web.ledger.reading() as session:
        measured = tier_measurements(session)
    return nodes_json(web.live, measured, asked=asked)


def placements_now(web: WebServices, checkpoint: str | None, node: str | None) -> list[AdminJson]:
    """All placements, of one checkpoint or node only if given."""
    alive = {each.name for each in web.live.fleet.nodes(web.live.now_ms())}
    with web.ledger.reading() as session:
        rows = list_placements(session, checkpoint=checkpoint, node=node)
        progress = placement_progress(session, [row for row in rows if not is_met(row)], datetime.now(UTC))
    done = PlacementProgress()
    return [
        placement_json(row, progress.get((row.checkpoint, row.node), done), is_alive=row.node in alive) for row in rows
    ]


def proposals_now(web: WebServices) -> list[AdminJson]:
    """Placements that should change, by how often models were asked for in the last day."""
    nodes = web.live.fleet.nodes(web.live.now_ms())
    with web.ledger.reading() as session:
        found = placement_proposals(session, nodes, datetime.now(UTC), ssd_copies=web.settings.ssd_copies)
    return [proposal_json(each) for each in found]


def queues_now(web: WebServices, asked: str | None = None) -> list[AdminJson]:
    """The queue of all models together (`*`), then that of each model, and the one `asked` for though it is gone."""
    with web.ledger.reading() as session:
        paused = {row.name: row for row in paused_queues(session)}
        models = {row.name for row in list_models(session)}
    names = [EVERY_MODEL, *sorted((models | paused.keys() | ({asked} if asked else set())) - {EVERY_MODEL})]
    now_ms, depths = web.live.now_ms(), web.live.queues.depths(names)
    return [queue_json(name, depth, paused.get(name), now_ms) for name, depth in zip(names, depths, strict=True)]
