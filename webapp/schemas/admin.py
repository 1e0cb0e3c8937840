"""Bodies of the administrative resources."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from sllm_tasks.jobs import Exactness, can_be_exact
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.states import Role
from webapp.schemas.fields import Body, NodeName, ShortText, TenantName, Text, UserName
from webapp.schemas.jobs import Query

DEFAULT_KEEP_ALIVE_S: Final = 60.0
_MAX_KEEP_ALIVE_S: Final = 30 * 86_400
_SCHEMES = ("http", "https", "s3")


def _source(value: str) -> str:
    scheme, separator, _ = value.partition("://")
    if not separator and not value.startswith("/"):
        raise ValueError("must be the absolute path of a directory on a node, such as /models/opt-125m, or a URL")
    if separator:
        _check_url(scheme, value)
    return value


def _check_url(scheme: str, value: str) -> None:
    if scheme.lower() not in _SCHEMES:
        raise ValueError(f"must be a URL that begins with one of {', '.join(f'{known}://' for known in _SCHEMES)}")
    parts = urlsplit(value)
    if not parts.hostname:
        raise ValueError("must name a host")
    try:
        parts.port  # noqa: B018 - raises for what is no port
    except ValueError as error:
        raise ValueError("must name a port from 0 to 65535, or none") from error
    if parts.username is not None or parts.password is not None or parts.query:
        # It is shown to whoever may read models and operations.
        raise ValueError("must hold no user, password or query; credentials belong into the environment of the node")


def _seconds_or_auto(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Say once what both of its forms would say apart."""
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"must be a number of seconds from 0 to {_MAX_KEEP_ALIVE_S}, or auto") from None


_KeepAlive = Annotated[
    Annotated[float, Field(ge=0, le=_MAX_KEEP_ALIVE_S)] | Literal["auto"], WrapValidator(_seconds_or_auto)
]


class ModelRequest(Body):
    """What a model is served from and how; what is left out is decided by the deploy operation."""

    #: A directory on a node (agents run in folders of their own, so only an absolute path says which), or a URL.
    source: Annotated[Text, StringConstraints(min_length=1, max_length=4096), AfterValidator(_source)]
    #: The node whose agent can read the source; default: any.
    node: NodeName | None = None
    engine: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")] = "steploop"
    #: Of one node, each with a part of the layers.
    num_gpus: Annotated[int, Field(ge=1, le=64)] = 1
    #: Tokens of prompt and output of one job; a checkpoint that allows less gets less.
    context: Annotated[int, Field(ge=16, le=10_000_000)] = 2048
    max_jobs: Annotated[int, Field(ge=1, le=1024)] = 16
    #: Of an idle replica; auto: as long as the model's past says that it is worth it, and it comes before its jobs.
    keep_alive_s: _KeepAlive = DEFAULT_KEEP_ALIVE_S
    min_replicas: Annotated[int, Field(ge=0, le=1024)] = 0
    max_replicas: Annotated[int, Field(ge=1, le=1024)] = 8

    #: Of jobs that say nothing else.
    exactness: Annotated[Exactness, Field(strict=False)] = Exactness.TOKEN

    @model_validator(mode="after")
    def _engine_can_be_exact(self) -> Self:
        if self.exactness is Exactness.EXACT and not can_be_exact(self.engine):
            raise ValueError(f"the engine {self.engine} has no level exact")
        return self

    @model_validator(mode="after")
    def _replicas_in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not exceed max_replicas")
        return self


def _distinct(scopes: list[Scope]) -> list[Scope]:
    if len(set(scopes)) < len(scopes):
        raise ValueError("must not name a scope twice")
    return scopes


class KeyRequest(Body):
    """A new API key."""

    name: ShortText
    scopes: Annotated[
        list[Annotated[Scope, Field(strict=False)]],
        Field(min_length=1, max_length=len(Scope)),
        AfterValidator(_distinct),
    ]
    tenant: TenantName = "default"


class UserRequest(Body):
    """A new user of the admin UI."""

    name: UserName
    role: Annotated[Role, Field(strict=False)] = Role.VIEWER


class RoleRequest(Body):
    """Another role for a user."""

    role: Annotated[Role, Field(strict=False)]


class TenantRequest(Body):
    """What holds for a tenant; null: as the server's settings say."""

    #: Its share when tenants compete, beside those of others.
    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    max_queued_jobs: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    max_running_jobs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    #: Of each of its keys.
    max_requests_per_min: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    max_tokens_per_min: Annotated[int, Field(ge=0, le=10_000_000_000)] | None = None


class PlacementRequest(Body):
    """The tier a checkpoint should have on a node; what is on gpus follows demand."""

    tier: Literal["ssd", "dram"]
    #: Whether it stays there whatever the policy of copies says.
    pinned: bool = True


class VerifyRequest(Body):
    """Which copy of a checkpoint to read."""

    node: NodeName


class PlacementsQuery(Query):
    """Which placements to list."""

    checkpoint: ShortText | None = None
    node: NodeName | None = None
