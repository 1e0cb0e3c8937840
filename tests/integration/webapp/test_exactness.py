"""What users ask of retries and migrations, and what they are told they got."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from sllm_tasks.jobs import EqualityClass, Exactness, JobPhase
from sllm_tasks.ledger.jobs import get_job
from sllm_tasks.ledger.tables import ModelRow
from tests.support.web import MODEL, Web, add_model

_PLAIN = "plain"


@pytest.fixture
def plain(web: Web) -> str:
    """A model of the default engine."""
    add_model(web.services.ledger, _PLAIN)
    _change_model(web, engine="steploop")
    return _PLAIN


def _change_model(web: Web, **values: object) -> None:
    with web.services.ledger.transaction() as session:
        session.execute(update(ModelRow).where(ModelRow.name == _PLAIN).values(**values))


def _needs(web: Web, job_id: str) -> tuple[Exactness, object]:
    with web.services.ledger.reading() as session:
        row = get_job(session, job_id)
    assert row is not None
    return row.exactness, row.shape["engine"]


def test_a_job_that_asks_for_exact_gets_a_replica_of_that_kind(web: Web, plain: str) -> None:
    assert _needs(web, web.submit(model=plain)) == (Exactness.TOKEN, "steploop")
    assert _needs(web, web.submit(model=plain, exactness="token")) == (Exactness.TOKEN, "steploop")
    job_id = web.submit(model=plain, exactness="exact")
    assert _needs(web, job_id) == (Exactness.EXACT, "exact")
    shown = web.http.get(f"/api/v1/jobs/{job_id}", headers=web.auth).json["exactness"]
    assert shown == {"asked": "exact", "achieved": None, "class": None, "downgrade": None}


def test_jobs_of_a_model_that_is_served_exactly_all_run_there(web: Web, plain: str) -> None:
    _change_model(web, exactness=Exactness.EXACT)
    assert _needs(web, web.submit(model=plain)) == (Exactness.EXACT, "exact")
    assert _needs(web, web.submit(model=plain, exactness="token")) == (Exactness.TOKEN, "exact")


def test_an_engine_without_the_level_is_refused_clearly(web: Web) -> None:
    body = {"model": MODEL, "input": {"prompt": "one"}, "exactness": "exact"}
    refused = web.http.post("/api/v1/jobs", json=body, headers=web.auth)
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_request")
    assert "instant" in refused.json["detail"]
    wanted = {"source": "/models/a", "engine": "instant", "exactness": "exact"}
    assert web.http.put("/api/v1/models/a", json=wanted, headers=web.auth).status_code == 422
    wanted["engine"] = "steploop"
    assert web.http.put("/api/v1/models/a", json=wanted, headers=web.auth).status_code == 202
    assert web.http.get("/api/v1/models/a", headers=web.auth).json["exactness"] == "exact"


def test_a_job_shows_what_it_got_and_why_that_is_less(web: Web) -> None:
    why = "a token's logits are others among 5 rows"
    live = web.services.live
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    # As if the replica had been loaded by an engine whose trial failed.
    equality = EqualityClass(exactness=Exactness.TOKEN, fingerprint="cpu float32", downgrade=why)
    live.fleet._redis.hset("sllm:replica:replica_test", mapping={"fingerprint": equality.fingerprint, "downgrade": why})
    live.jobs.set_phase(claim, JobPhase.PREFILL)
    expected = {"asked": "token", "achieved": "token", "class": "cpu float32", "downgrade": why}
    assert web.http.get(f"/api/v1/jobs/{job_id}", headers=web.auth).json["exactness"] == expected
    web.worker.emit(claim, ["one"])
    web.worker.finish(claim, " one", 1)
    assert web.http.get(f"/api/v1/jobs/{job_id}", headers=web.auth).json["exactness"] == expected
    result = web.http.get(f"/api/v1/jobs/{job_id}/result", headers=web.auth).json
    assert result["exactness"] == "token"
