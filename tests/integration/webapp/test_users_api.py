"""`/api/v1/users`, and the first user of a fresh cluster."""

from __future__ import annotations

from sllm_tasks.bootstrap import FIRST_USER, first_login_link
from sllm_tasks.ledger.keys import Scope
from tests.support.admin_ui import PASSWORD
from tests.support.web import Web, add_key

USERS = "/api/v1/users"


def test_a_user_is_made_by_api_and_sets_a_password_by_the_link(web: Web) -> None:
    made = web.http.post(USERS, json={"name": "ada", "role": "operator"}, headers=web.auth)
    assert (made.status_code, made.json["role"], made.json["has_password"]) == (201, "operator", False)
    link = made.json["link"].removeprefix("http://localhost")
    assert web.http.post(link, data={"password": PASSWORD, "again": PASSWORD}).status_code == 303
    (shown,) = web.http.get(USERS, headers=web.auth).json["data"]
    assert (shown["id"], shown["has_password"]) == ("ada", True)
    assert "link" not in shown


def test_a_user_gets_another_role_is_disabled_and_taken_back(web: Web) -> None:
    for name in ("ada", "bob"):
        web.http.post(USERS, json={"name": name, "role": "admin"}, headers=web.auth)
    changed = web.http.patch(f"{USERS}/bob", json={"role": "viewer"}, headers=web.auth)
    assert changed.json["role"] == "viewer"
    assert web.http.delete(f"{USERS}/ada", headers=web.auth).status_code == 409
    assert web.http.delete(f"{USERS}/bob", headers=web.auth).status_code == 204
    assert web.http.get(USERS, headers=web.auth).json["data"][1]["disabled_at"] is not None
    assert web.http.post(f"{USERS}/bob/link", headers=web.auth).json["disabled_at"] is None


def test_users_are_refused_with_names_and_roles_that_cannot_be(web: Web) -> None:
    for body in ({"name": "Ada"}, {"name": "../x"}, {"name": "ada", "role": "god"}):
        assert web.http.post(USERS, json=body, headers=web.auth).status_code == 422
    assert web.http.patch(f"{USERS}/nobody", json={"role": "viewer"}, headers=web.auth).status_code == 404
    web.http.post(USERS, json={"name": "ada"}, headers=web.auth)
    assert web.http.post(USERS, json={"name": "ada"}, headers=web.auth).status_code == 409


def test_users_are_for_administrators(web: Web) -> None:
    auth = {"Authorization": f"Bearer {add_key(web.services.ledger, Scope.ADMIN_READ)}"}
    assert web.http.get(USERS, headers=auth).status_code == 200
    assert web.http.post(USERS, json={"name": "ada"}, headers=auth).status_code == 403


def test_the_first_link_is_made_as_long_as_nobody_can_sign_in(web: Web) -> None:
    settings = web.services.settings
    first, second = (first_login_link(settings, "http://localhost") for _ in range(2))
    assert first is not None
    assert second is not None
    assert web.http.get(first).status_code == 410
    assert FIRST_USER in web.http.get(second).text
    web.http.post(second, data={"password": PASSWORD, "again": PASSWORD})
    assert first_login_link(settings, "http://localhost") is None
