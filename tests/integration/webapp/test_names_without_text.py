"""U+0000, which PostgreSQL takes in no text: a path or a search with it finds nothing, on every database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sllm_tasks.config import Settings
from sllm_tasks.ledger.states import Role
from tests.support.admin_ui import Browser
from tests.support.postgres import PostgresServer
from tests.support.web import DIGEST, Web


@pytest.fixture
def settings(settings: Settings, postgres_server: PostgresServer, _postgres_template: str) -> Iterator[Settings]:
    """A ledger in PostgreSQL."""
    with postgres_server.database("names_without_text", _postgres_template) as url:
        yield settings.model_copy(update={"database_url": url})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/jobs/%00"),
        ("GET", "/api/v1/models/a%00"),
        ("DELETE", "/api/v1/keys/%00"),
        ("POST", "/api/v1/queues/%00/pause"),
        ("GET", "/v1/files/%00"),
        ("GET", "/v1/batches/%00"),
    ],
)
def test_nothing_is_at_a_path_with_it(web: Web, method: str, path: str) -> None:
    assert web.http.open(path, method=method, headers=web.auth).status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/admin/jobs?q=%00", 422),
        ("/admin/jobs?after=%00", 422),
        ("/admin/audit/export.csv?actor=%00", 422),
        ("/admin/jobs/%00", 404),
        (f"/admin/placements/{DIGEST}%00/node0", 404),
    ],
)
def test_a_page_says_that_there_is_none(web: Web, path: str, status: int) -> None:
    assert Browser(web.services, Role.ADMIN).get(path).status_code == status


def test_nobody_signs_in_by_a_name_with_it(web: Web) -> None:
    assert web.http.post("/admin/sign-in", data={"name": "a\0", "password": "b\0"}).status_code == 403
