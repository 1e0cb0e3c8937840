"""Placements, copies and tiers over REST: what is wanted, what is there, and why the two differ."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sllm_tasks.cluster import NodeInfo, Tier, TierUsage
from sllm_tasks.errors import ErrorCode
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobError
from sllm_tasks.ledger.audit import list_audit
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.loads import MeasuredLoad, add_loads
from sllm_tasks.ledger.operations import NewOperation, add_operation, begin_operation, fail_operation
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.placements import note_placement
from sllm_tasks.operations import OperationKind
from tests.support.web import DIGEST, Web, add_key

ONE = f"/api/v1/placements/{DIGEST}/node0"
NODE = NodeInfo(
    name="node0",
    checkpoints=frozenset({DIGEST}),
    ssd=TierUsage(capacity_bytes=100, used_bytes=10),
    dram=TierUsage(capacity_bytes=50, used_bytes=0, error="no memory"),
)


def placements(web: Web, **query: str) -> list[dict[str, Any]]:
    response = web.http.get("/api/v1/placements", query_string=query, headers=web.auth)
    assert response.status_code == 200, response.text
    data: list[dict[str, Any]] = response.json["data"]
    return data


@pytest.mark.parametrize(("body", "pinned"), [({"tier": "dram"}, True), ({"tier": "ssd", "pinned": False}, False)])
def test_a_placement_is_wanted_in_a_tier_and_kept_there_unless_told_otherwise(
    web: Web, body: dict[str, Any], pinned: bool
) -> None:
    response = web.http.put(ONE, json=body, headers=web.auth)
    assert response.status_code == 202
    shown = {name: response.json[name] for name in ("desired", "actual", "pinned", "met")}
    assert shown == {"desired": body["tier"], "actual": None, "pinned": pinned, "met": False}
    assert placements(web) == [response.json]


def test_a_placement_that_is_deleted_is_wanted_no_more_and_no_policy_may_bring_it_back(web: Web) -> None:
    web.http.put(ONE, json={"tier": "ssd"}, headers=web.auth)
    response = web.http.delete(ONE, headers=web.auth)
    assert (response.status_code, response.json["desired"], response.json["pinned"]) == (202, None, True)
    with web.services.ledger.reading() as session:
        actions = sorted(row.action for row in list_audit(session, PageRequest()).rows)
    assert actions == ["placement.delete", "placement.put"]


def test_proposals_are_shown_and_wanted_when_they_are_applied_and_then_there_are_none(web: Web) -> None:
    other = replace(NODE, name="node1", checkpoints=frozenset(), dram=None)
    for node in (replace(NODE, ssd=TierUsage(capacity_bytes=1 << 40, used_bytes=0)), other):
        web.services.live.fleet.beat_node(node, web.services.live.now_ms())
    proposals = web.http.get("/api/v1/placements/proposals", headers=web.auth).json["data"]
    # `ssd_copies` is two.
    assert [(each["node"], each["desired"], each["proposed"]) for each in proposals] == [
        ("node0", None, "ssd"),
        ("node1", None, "ssd"),
    ]
    assert placements(web) == []
    assert web.http.post("/api/v1/placements/proposals", headers=web.auth).json["data"] == proposals
    assert [(shown["desired"], shown["pinned"]) for shown in placements(web)] == [("ssd", False)] * 2
    assert web.http.post("/api/v1/placements/proposals", headers=web.auth).json["data"] == []


def test_what_is_unknown_or_malformed_is_refused(web: Web) -> None:
    unknown = f"/api/v1/placements/{'f' * 64}/node0"
    assert web.http.put(unknown, json={"tier": "ssd"}, headers=web.auth).status_code == 404
    assert web.http.delete(unknown, headers=web.auth).status_code == 404
    for tier in ("gpu", "remote", "", None):
        assert web.http.put(ONE, json={"tier": tier}, headers=web.auth).status_code == 422
    bad_node = f"/api/v1/placements/{DIGEST}/no%20node"
    assert web.http.put(bad_node, json={"tier": "ssd"}, headers=web.auth).status_code == 422
    assert placements(web) == []


def test_whoever_may_only_read_changes_nothing(web: Web) -> None:
    headers = {"Authorization": f"Bearer {add_key(web.services.ledger, Scope.ADMIN_READ)}"}
    assert web.http.put(ONE, json={"tier": "ssd"}, headers=headers).status_code == 403
    assert web.http.delete(ONE, headers=headers).status_code == 403
    assert web.http.post("/api/v1/nodes/node0/calibrate", headers=headers).status_code == 403
    assert web.http.get("/api/v1/placements", headers=headers).status_code == 200


def test_a_placement_says_why_it_is_not_true_and_when_it_is_tried_again(web: Web) -> None:
    web.services.live.fleet.beat_node(NODE, web.services.live.now_ms())
    web.http.put(ONE, json={"tier": "ssd"}, headers=web.auth)
    now = datetime.now(UTC)
    with web.services.ledger.transaction() as session:
        new = NewOperation(
            id=new_id("op"), kind=OperationKind.FETCH, target=DIGEST, args={"node": "node0"}, requested_by="reconciler",
            created_at=now,
        )  # fmt: skip
        add_operation(session, new)
    (shown,) = placements(web)
    assert (shown["operation"], shown["error"]) == (new.id, None)
    with web.services.ledger.transaction() as session:
        attempt = begin_operation(session, new.id, node="node0", now=now)
        assert attempt is not None
        fail_operation(
            session, new.id, attempt=attempt, error=JobError(code=ErrorCode.DISK_FULL, message="full"), now=now
        )
    (shown,) = placements(web)
    assert (shown["operation"], shown["error"]) == (None, {"code": "disk_full", "message": "full"})
    assert shown["retry_at"] is not None
    with web.services.ledger.transaction() as session:
        note_placement(session, DIGEST, "node0", tier=Tier.SSD, now=now)
    (shown,) = placements(web)
    assert (shown["met"], shown["error"], shown["retry_at"]) == (True, None, None)


def test_a_placement_on_a_node_that_does_not_live_says_so(web: Web) -> None:
    web.http.put(ONE, json={"tier": "ssd"}, headers=web.auth)
    (shown,) = placements(web)
    assert shown["error"] == {"code": "unavailable", "message": "the agent of node node0 is not alive"}


def test_placements_are_listed_by_checkpoint_or_node(web: Web) -> None:
    for node in ("node0", "node1"):
        web.http.put(f"/api/v1/placements/{DIGEST}/{node}", json={"tier": "ssd"}, headers=web.auth)
    assert [shown["node"] for shown in placements(web, node="node1")] == ["node1"]
    assert len(placements(web, checkpoint=DIGEST)) == 2
    assert placements(web, checkpoint="f" * 64) == []


def test_nodes_tell_how_full_their_tiers_are_what_is_wrong_and_what_they_delivered(web: Web) -> None:
    web.services.live.fleet.beat_node(replace(NODE, in_dram=NODE.checkpoints), web.services.live.now_ms())
    at = datetime(2026, 1, 1, tzinfo=UTC)
    measured = MeasuredLoad(
        id="load_1", checkpoint=DIGEST, node="node0", gpu=None, tier=Tier.SSD, num_bytes=3000, seconds=2.0, at=at
    )
    with web.services.ledger.transaction() as session:
        add_loads(session, [measured])
    (node,) = web.http.get("/api/v1/nodes", headers=web.auth).json["data"]
    assert (node["checkpoints"], node["in_dram"]) == ([DIGEST], [DIGEST])
    assert node["tiers"]["ssd"] == {
        "capacity_bytes": 100,
        "used_bytes": 10,
        "error": None,
        "bytes_per_s": 1500.0,
        "measured_at": "2026-01-01T00:00:00.000Z",
    }
    dram = node["tiers"]["dram"]
    assert (dram["error"], dram["bytes_per_s"], dram["measured_at"]) == ("no memory", None, None)


def test_a_copy_is_verified_and_a_node_calibrated_once_however_often_it_is_sent(web: Web) -> None:
    for path, body, kind, target in (
        (f"/api/v1/checkpoints/{DIGEST}/verify", {"node": "node0"}, "verify", DIGEST),
        ("/api/v1/nodes/node0/calibrate", None, "calibrate", "node0"),
    ):
        keyed = {**web.auth, "Idempotency-Key": "k"}
        first, again = (web.http.post(path, json=body, headers=keyed) for _ in range(2))
        assert (first.status_code, first.json["kind"], first.json["target"]) == (202, kind, target)
        assert (again.json["id"], again.headers["Idempotency-Replayed"]) == (first.json["id"], "true")
    unknown = f"/api/v1/checkpoints/{'f' * 64}/verify"
    assert web.http.post(unknown, json={"node": "node0"}, headers=web.auth).status_code == 404
