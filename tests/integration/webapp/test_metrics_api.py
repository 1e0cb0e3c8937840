"""`/metrics`: what Prometheus reads, and that the dashboard and the documents speak of nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from sllm_tasks.cluster import NodeInfo, TierUsage
from sllm_tasks.ledger.decisions import Decision, add_decisions, note_actual_starts
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.metrics import METRICS, Sample
from tests.support.web import MODEL, Web, add_key

_ROOT = Path(__file__).parents[3]


def scrape(web: Web) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and values of labels, these in the order of the labels' names."""
    response = web.http.get("/metrics", headers=web.auth)
    assert response.status_code == 200, response.text
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def fill(web: Web) -> None:
    """Let everything happen that is measured."""
    web.worker.run(job_id := web.submit(), ["one", "two"])
    web.services.live.metrics.add([Sample(metric, tuple("x" for _ in metric.labels)) for metric in METRICS])
    usage = TierUsage(capacity_bytes=10, used_bytes=1)
    node = NodeInfo(name="node0", checkpoints=frozenset(), ssd=usage, dram=usage)
    web.services.live.fleet.beat_node(node, web.services.live.now_ms())
    now = datetime.now(UTC)
    with web.services.ledger.transaction() as session:
        decision = Decision(
            id="decision_1", job_id=job_id, attempt=1, at=now, path="warm", candidates=(), predicted_s=1.0,
            choice={"start": {"low_s": 0, "high_s": 2}},
        )  # fmt: skip
        add_decisions(session, [decision])
        note_actual_starts(session, job_id, 1, now)
    for name in ("sweeper_requeued", "sweeper_resent", "fence_rejected", "messages_rejected"):
        web.services.live.count(name)


def test_a_job_that_ended_is_counted_with_its_tokens_and_the_time_of_its_phases(web: Web) -> None:
    web.worker.run(web.submit(), ["one", "two"])
    found = scrape(web)
    assert found["sllm_jobs_total"] == {("", "succeeded"): 1}
    assert found["sllm_tokens_total"] == {("prompt",): 3, ("completion",): 2}
    assert found["sllm_job_phase_seconds_count"][("first_token", "warm")] == 1
    assert found["sllm_http_requests_total"][("/api/v1/jobs", "202")] == 1


def test_a_job_that_was_cancelled_while_it_waited_is_counted(web: Web) -> None:
    job_id = web.submit()
    web.http.post(f"/api/v1/jobs/{job_id}/cancel", headers=web.auth)
    assert scrape(web)["sllm_jobs_total"] == {("canceled_by_user", "canceled"): 1}


def test_what_waits_runs_and_is_there_shows_as_it_is_now(web: Web) -> None:
    web.submit()
    web.services.live.queues.set_paused(MODEL, paused=True)
    web.submit()
    found = scrape(web)
    assert (found["sllm_queue_depth"][(MODEL,)], found["sllm_running_jobs"][()]) == (1, 1)
    assert found["sllm_gpu_memory_bytes"][("0", "capacity", "node0")] == 100
    assert found["sllm_up"] == {("live_state",): 1, ("ledger",): 1}


def test_metrics_take_a_key_that_reads_as_admin_unless_they_are_open(web: Web) -> None:
    assert web.http.get("/metrics").status_code == 401
    weak = {"Authorization": f"Bearer {add_key(web.services.ledger, Scope.JOBS_READ)}"}
    assert web.http.get("/metrics", headers=weak).status_code == 403
    settings = web.services.settings.model_copy(update={"open_metrics": True})
    app = web.http.application
    app.extensions["sllm"] = replace(web.services, settings=settings)
    assert web.http.get("/metrics").status_code == 200


def test_the_page_of_metrics_names_what_is_shown(web: Web) -> None:
    fill(web)
    text = (_ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(sllm_[a-z_]+)`", text, flags=re.MULTILINE))
    counters = {f"sllm_{name}_total" for name in web.services.live.counters()}
    assert _families(scrape(web)) - counters == named


def test_dashboard_and_alerts_use_metrics_that_exist(web: Web) -> None:
    fill(web)
    found = scrape(web).keys()
    for path in (_ROOT / "deploy" / "grafana").iterdir():
        used = set(re.findall(r"\bsllm_[a-z_]+\b", path.read_text(encoding="utf-8")))
        assert used
        assert used - found == set(), path.name


def test_what_every_web_process_tells_of_the_cluster_is_not_added_up() -> None:
    dashboard = json.loads((_ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    alerts = yaml.safe_load((_ROOT / "deploy" / "grafana" / "alerts.yaml").read_text(encoding="utf-8"))
    shown += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    # In a quotient of two sums the number of processes does not matter.
    counts = [expression for expression in shown if " / " not in expression]
    added_up = re.compile(r"sum(?: by \([a-z_, ]+\) )?\((?:rate|increase)\((sllm_[a-z_]+_total)")
    assert {name for expression in counts for name in added_up.findall(expression)} == {"sllm_http_requests_total"}


def test_no_alert_is_for_a_pool_that_is_full_of_what_may_go() -> None:
    alerts = (_ROOT / "deploy" / "grafana" / "alerts.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r'sllm_tier_bytes\{tier="(\w+)"', alerts)) == {"ssd"}
    assert "sllm_tier_bytes{kind" not in alerts


def test_the_dashboard_is_json_with_a_title_on_every_panel() -> None:
    dashboard = json.loads((_ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
    assert all(panel["title"] for panel in dashboard["panels"])


def _families(names: Iterable[str]) -> set[str]:
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names if not name.endswith("_created")}
