from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from sllm_tasks.errors import ConfigError
from sllm_tasks.ledger import schema
from sllm_tasks.ledger.connections import parse_url
from sllm_tasks.ledger.tables import Base
from tests.support.races import run_together


def _checks(engine: Engine) -> dict[str, dict[str, str]]:
    found = inspect(engine)
    return {
        table: {str(check["name"]): check["sqltext"] for check in found.get_check_constraints(table)}
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def test_an_upgraded_database_has_exactly_the_tables_that_the_code_expects(empty_database_url: str) -> None:
    assert schema.current(empty_database_url) is None
    schema.upgrade(empty_database_url)
    assert schema.current(empty_database_url) == schema.head()
    assert schema.check(empty_database_url) == ()


def test_upgrading_again_changes_nothing(empty_database_url: str) -> None:
    schema.upgrade(empty_database_url)
    schema.upgrade(empty_database_url)
    assert schema.check(empty_database_url) == ()


def test_a_database_of_a_later_version_is_refused_with_both_revisions(database_url: str) -> None:
    engine = create_engine(parse_url(database_url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigError, match=f"9999, this version knows {schema.head()}"):
        schema.upgrade(database_url)
    assert schema.current(database_url) == "9999"


def test_a_downgrade_to_base_leaves_no_table_behind_and_the_way_up_open(empty_database_url: str) -> None:
    schema.upgrade(empty_database_url)
    schema.downgrade(empty_database_url, "base")
    engine = create_engine(parse_url(empty_database_url))
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    engine.dispose()
    schema.upgrade(empty_database_url)
    assert schema.check(empty_database_url) == ()


def test_revisions_make_the_same_checks_as_the_tables_of_the_code(empty_database_url: str) -> None:
    engine = create_engine(parse_url(empty_database_url))
    Base.metadata.create_all(engine)
    of_the_code = _checks(engine)
    Base.metadata.drop_all(engine)
    schema.upgrade(empty_database_url)
    assert _checks(engine) == of_the_code
    assert sum(map(len, of_the_code.values())) > 40
    engine.dispose()


def test_check_names_a_column_that_somebody_added_by_hand(database_url: str) -> None:
    engine = create_engine(parse_url(database_url))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs ADD COLUMN surprise VARCHAR(10)"))
    engine.dispose()
    (difference,) = schema.check(database_url)
    assert "surprise" in difference


def test_check_says_when_the_database_is_behind(empty_database_url: str) -> None:
    assert "None" in schema.check(empty_database_url)[0]


def test_deployers_that_upgrade_at_once_take_turns(empty_database_url: str) -> None:
    run_together([lambda: schema.upgrade(empty_database_url)] * 6)
    assert schema.check(empty_database_url) == ()


def test_code_of_the_revision_before_works_on_each_revision(tmp_path: Path) -> None:
    url, before = f"sqlite:///{tmp_path / 'ledger.db'}", dict[tuple[str, str], bool]()
    for number in range(1, int(schema.head()) + 1):
        schema.upgrade(url, f"{number:04}")
        engine = create_engine(url)
        found = inspect(engine)
        # Whether a row may leave the column out.
        columns = {
            (table, column["name"]): column["nullable"] or column["default"] is not None
            for table in found.get_table_names()
            for column in found.get_columns(table)
        }
        engine.dispose()
        old_tables, added = {table for table, _ in before}, set(columns) - set(before)
        assert set(before) <= set(columns), number
        assert [key for key in added if key[0] in old_tables and not columns[key]] == [], number
        before = columns
