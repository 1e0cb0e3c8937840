"""What all tables share: the declarative base, names of constraints, column types that are alike on both databases."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Enum, LargeBinary, MetaData, String, Text, inspect
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

#: A JSON object as it comes out of a column.
JsonObject = Mapping[str, object]

#: Plain JSON, not JSONB: nothing queries inside, and JSONB refuses the \u0000 that models do emit.
JSON_VALUE = JSON(none_as_null=True)


class UtcDateTime(TypeDecorator[datetime]):
    """An instant; naive values are refused, and what comes out is in UTC (SQLite alone would forget the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a timestamp of the ledger needs a time zone, {value!r} has none")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert to UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Utf8(TypeDecorator[str]):
    """Text of users and models, kept as bytes because PostgreSQL text cannot hold U+0000."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """Encode; a lone surrogate must not keep a job from ending."""
        return None if value is None else value.encode("utf-8", "surrogatepass")

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Decode."""
        return None if value is None else bytes(value).decode("utf-8", "surrogatepass")


class Message(TypeDecorator[str]):
    """Text for people, such as an error; what the database cannot hold is replaced."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Replace U+0000 and lone surrogates."""
        return None if value is None else value.replace("\0", "�").encode("utf-8", "replace").decode()


class TokenIds(TypeDecorator[tuple[int, ...]]):
    """Token ids as packed little-endian uint32: a prompt of 100,000 tokens is 400 kB, not 600 kB of digits."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: tuple[int, ...] | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """Pack."""
        return None if value is None else struct.pack(f"<{len(value)}I", *value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> tuple[int, ...] | None:  # noqa: ARG002
        """Unpack."""
        return None if value is None else struct.unpack(f"<{len(value) // 4}I", value)


def by_value(kind: type[StrEnum], name: str) -> Enum:
    """Make a VARCHAR column type for a closed set, with a CHECK called `name`."""
    return Enum(
        kind,
        name=name,
        native_enum=False,
        create_constraint=True,
        validate_strings=True,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )


def sql_list(values: frozenset[StrEnum]) -> str:
    """Write a set of enum members as a literal `('a', 'b')`, in a stable order, for CHECK constraints."""
    return "(" + ", ".join(f"'{value}'" for value in sorted(values)) + ")"


class Base(DeclarativeBase):
    """Base of all tables; every constraint has a name, so that a schema revision can change it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read once by SQLAlchemy
        datetime: UtcDateTime(),
        int: BigInteger(),
        str: String(255),
    }

    def __repr__(self) -> str:
        key = ", ".join(str(value) for value in inspect(self).identity or ("new",))
        return f"<{self.__tablename__} {key}>"
