"""Placements: checkpoint by node, and what a change of one cell would do."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from sllm_tasks.cluster import Tier
from sllm_tasks.errors import NotFoundError
from sllm_tasks.ledger.inventory import get_checkpoint
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import read_form
from webapp.admin.pages import Context, page
from webapp.admin.placement_effects import Copy, effects
from webapp.admin_changes import AdminChanges
from webapp.admin_lists import checkpoints_now, nodes_now, placements_now, proposals_now
from webapp.api.nodes import checked_name
from webapp.schemas.admin import PlacementRequest
from webapp.services import services


@blueprint.get("/placements")
@needs(Role.VIEWER)
def placements() -> Response:
    """Show the matrix of checkpoints and nodes."""
    return page("placements", _matrix, proposals=proposals_now(services()))


@blueprint.get("/placements/<checkpoint>/<node>")
@needs(Role.VIEWER)
def placement(checkpoint: str, node: str) -> Response:
    """Show one cell, with what each change of it would do."""
    checked_name(node)
    with services().ledger.reading() as session:
        get_checkpoint(session, checkpoint)
    return page("placement", lambda: _cell(checkpoint, node), choices=_choices(checkpoint, node))


@blueprint.post("/placements/<checkpoint>/<node>")
@needs(Role.OPERATOR)
def change_placement(checkpoint: str, node: str) -> Response:
    """Want a checkpoint in a tier of a node, or not there."""
    tier = request.form.get("tier", "")
    wanted = None if tier == "none" else read_form(PlacementRequest, {"tier": tier, "pinned": "pinned" in request.form})
    AdminChanges(services().ledger, person()).want_placement(checkpoint, checked_name(node), wanted)
    return see_other("placement", checkpoint=checkpoint, node=node, notice="wanted")


@blueprint.post("/placements/proposals")
@needs(Role.OPERATOR)
def apply_proposals() -> Response:
    """Want what is proposed."""
    web = services()
    nodes = web.live.fleet.nodes(web.live.now_ms())
    AdminChanges(web.ledger, person()).apply_proposals(nodes, ssd_copies=web.settings.ssd_copies)
    return see_other("placements")


def _matrix() -> Context:
    web = services()
    cells = {(each["checkpoint"], each["node"]): each for each in placements_now(web, None, None)}
    nodes: list[Any] = nodes_now(web)
    on_gpus = {
        (replica["checkpoint"], node["id"])
        for node in nodes
        for gpu in node["gpus"]
        for replica in gpu["replicas"]
        if replica["state"] == "ready"
    }
    names = sorted({node["id"] for node in nodes} | {str(node) for _, node in cells})
    return {
        "checkpoints": checkpoints_now(web),
        "node_names": names,
        "nodes": {node["id"]: node for node in nodes},
        "cells": cells,
        "on_gpus": on_gpus,
    }


def _cell(checkpoint: str, node: str) -> Context:
    found = placements_now(services(), checkpoint, node)
    stored = next((each for each in checkpoints_now(services()) if each["id"] == checkpoint), None)
    if stored is None:
        raise NotFoundError(f"there is no checkpoint {checkpoint}")
    return {"checkpoint": stored, "node": node, "cell": found[0] if found else None}


def _choices(checkpoint: str, node: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """What can be wanted: its value in the form, its name, and what it does."""
    web = services()
    found = {each["node"]: each for each in placements_now(web, checkpoint, None)}
    stored: Any = next(each for each in checkpoints_now(web) if each["id"] == checkpoint)
    nodes: list[Any] = nodes_now(web)
    tiers: Any = next((each["tiers"] for each in nodes if each["id"] == node), None)
    here: Any = found.get(node)
    copy = Copy(
        num_bytes=stored["num_bytes"],
        actual=None if here is None or here["actual"] is None else Tier(here["actual"]),
        other_nodes=tuple(str(name) for name, each in found.items() if name != node and each["actual"] is not None),
        models=tuple(stored["models"]),
        free_bytes={Tier(name): _free(tier) for name, tier in (tiers or {}).items()},
        bytes_per_s={Tier(name): tier["bytes_per_s"] for name, tier in (tiers or {}).items()},
    )
    names = ((Tier.SSD, "On the SSD"), (Tier.DRAM, "In DRAM as well"), (None, "Not on this node"))
    return [(tier.value if tier else "none", name, effects(copy, node, tier)) for tier, name in names]


def _free(tier: Any) -> int | None:  # JSON; made by `nodes_json`
    return None if tier["capacity_bytes"] is None else tier["capacity_bytes"] - tier["used_bytes"]
