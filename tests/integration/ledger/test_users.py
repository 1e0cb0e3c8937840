"""Users, their sessions and links, and how often a password may be guessed, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sllm_tasks.errors import ConflictError
from sllm_tasks.ledger import login_limits, user_sessions, users
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.passwords import hash_password, is_password
from sllm_tasks.ledger.states import Role

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def _user(ledger: Database, name: str = "ada", role: Role = Role.ADMIN) -> str:
    """Make a user and return the token of their link."""
    with ledger.transaction() as session:
        users.create_user(session, name, role, now=NOW)
        return users.make_link(session, name, now=NOW)


def _use(ledger: Database, token: str, at: datetime = NOW) -> str | None:
    with ledger.transaction() as session:
        return users.use_link(session, token, "hash", now=at)


def test_a_link_sets_a_password_once(database: Database) -> None:
    token = _user(database)
    with database.reading() as session:
        assert users.user_of_link(session, token, now=NOW) == "ada"
        assert not users.has_users(session)
    assert [_use(database, token), _use(database, token)] == ["ada", None]
    with database.reading() as session:
        assert users.has_users(session)


def test_a_link_expires_and_a_later_one_takes_its_place(database: Database) -> None:
    first = _user(database)
    assert _use(database, first, NOW + users.LINK_LIFE) is None
    with database.transaction() as session:
        second = users.make_link(session, "ada", now=NOW)
    assert [_use(database, first), _use(database, second)] == [None, "ada"]


def test_a_name_is_taken_once(database: Database) -> None:
    _user(database)
    with pytest.raises(ConflictError, match="ada"):
        _user(database)


def test_the_last_admin_stays(database: Database) -> None:
    _user(database)
    with database.transaction() as session, pytest.raises(ConflictError, match="last admin"):
        users.set_role(session, "ada", Role.VIEWER)
    with database.transaction() as session, pytest.raises(ConflictError, match="last admin"):
        users.disable_user(session, "ada", now=NOW)
    _user(database, "bob")
    with database.transaction() as session:
        users.disable_user(session, "ada", now=NOW)


def test_a_session_ends_with_its_time_with_idleness_and_with_its_user(database: Database) -> None:
    _user(database)
    _user(database, "bob", Role.VIEWER)
    with database.transaction() as session:
        token = user_sessions.open_session(session, "bob", now=NOW)

    def role(at: datetime) -> Role | None:
        with database.reading() as session:
            found = user_sessions.find_session(session, token, now=at)
        return None if found is None else found.role

    assert role(NOW) is Role.VIEWER
    assert role(NOW + user_sessions.IDLE_LIFE) is None
    for hours in range(1, 24 * 7, 11):
        with database.transaction() as session:
            user_sessions.note_seen(session, token, now=NOW + timedelta(hours=hours))
    assert role(NOW + user_sessions.SESSION_LIFE - timedelta(hours=1)) is Role.VIEWER
    assert role(NOW + user_sessions.SESSION_LIFE) is None
    with database.transaction() as session:
        users.disable_user(session, "bob", now=NOW)
    assert role(NOW) is None


def test_purging_forgets_what_works_no_more(database: Database) -> None:
    link = _user(database)
    with database.transaction() as session:
        kept = user_sessions.open_session(session, "ada", now=NOW)
        user_sessions.purge_sessions(session, NOW)
    with database.reading() as session:
        assert users.user_of_link(session, link, now=NOW) == "ada"
        assert user_sessions.find_session(session, kept, now=NOW) is not None
    with database.transaction() as session:
        user_sessions.purge_sessions(session, NOW + user_sessions.SESSION_LIFE)
    with database.reading() as session:
        assert users.user_of_link(session, link, now=NOW) is None
        assert user_sessions.find_session(session, kept, now=NOW) is None


def test_passwords_are_guessed_ten_times_from_one_address_and_not_again_for_a_while(database: Database) -> None:
    def may_try(user: str = "ada", address: str = "10.0.0.1", at: datetime = NOW) -> bool:
        with database.reading() as session:
            return login_limits.may_try(session, user, address, now=at)

    for _ in range(10):
        assert may_try()
        with database.transaction() as session:
            login_limits.note_failure(session, "ada", "10.0.0.1", now=NOW)
    assert [may_try(), may_try(address="10.0.0.2"), may_try("bob")] == [False, True, True]
    later = NOW + login_limits.WINDOW
    assert may_try(at=later)
    with database.transaction() as session:
        login_limits.note_failure(session, "ada", "10.0.0.1", now=later)
    assert may_try(at=later)
    for number in range(50):
        with database.transaction() as session:
            login_limits.note_failure(session, f"user{number}", "10.0.0.3", now=later)
    assert not may_try("zoe", "10.0.0.3", later)


def test_the_right_password_forgets_the_wrong_ones(database: Database) -> None:
    with database.transaction() as session:
        for _ in range(10):
            login_limits.note_failure(session, "ada", "10.0.0.1", now=NOW)
        login_limits.note_success(session, "ada", "10.0.0.1")
        assert login_limits.may_try(session, "ada", "10.0.0.1", now=NOW)


def test_a_password_is_recognised_by_its_hash_and_nobody_has_none() -> None:
    stored = hash_password("correct horse battery")
    assert stored.startswith("scrypt$32768$8$1$")
    assert hash_password("correct horse battery") != stored
    assert [is_password("correct horse battery", stored), is_password("\ud800", stored), is_password("", None)] == [
        True,
        False,
        False,
    ]


def test_each_role_may_do_what_the_one_before_may() -> None:
    assert [[role.includes(other) for other in Role] for role in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
