"""The inventory: which checkpoints exist and which models are deployed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Update, delete, exists, select, update
from sqlalchemy.orm import Session

from sllm_tasks.cluster import ModelInfo
from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.jobs import Exactness, engine_at
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.states import ModelState
from sllm_tasks.ledger.tables import CheckpointRow, ModelRow
from sllm_tasks.ledger.writes import AS_READ, insert_if_absent, took_place


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCheckpoint:
    """A checkpoint as a node agent reports it after an import; the texts are the files of those names."""

    digest: str
    source: str
    architecture: str
    dtype: str
    num_bytes: int
    num_parameters: int
    num_partitions: int
    config: str
    generation_config: str | None
    tokenizer: str | None
    tokenizer_config: str | None
    chat_template: str | None
    eos_token_ids: tuple[int, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """A checkpoint as lists show it: without its texts, which can be megabytes."""

    digest: str
    source: str
    architecture: str
    dtype: str
    num_bytes: int
    num_parameters: int
    num_partitions: int
    created_at: datetime
    #: Names of the models that are served from it.
    models: tuple[str, ...]

    @property
    def came_from_url(self) -> bool:
        """Whether it was imported from a URL, not from a directory of some node."""
        return _is_url(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """What may change while a model serves."""

    keep_alive_s: float
    min_replicas: int
    max_replicas: int
    #: Idle replicas stay as long as the model's past says that it is worth it, not for `keep_alive_s`.
    keep_alive_auto: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings(ServingSettings):
    """What an operator says about a model."""

    name: str
    #: A directory on a node.
    source: str
    engine: str
    dtype: str
    num_gpus: int
    max_jobs: int
    context: int
    exactness: Exactness = Exactness.TOKEN

    @classmethod
    def from_args(cls, args: JsonObject) -> Self:
        """Read them back from a deploy operation, whose arguments hold what `asdict` made of them."""
        values: dict[str, Any] = {field.name: args[field.name] for field in fields(cls) if field.name in args}
        return cls(**{**values, "exactness": Exactness(values["exactness"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedModel:
    """What a deploy operation found out."""

    checkpoint: str
    weights_bytes: int
    kv_bytes_per_token: int
    bytes_per_gpu: int
    #: As asked for, or less where the model cannot do as much.
    context: int
    dtype: str


def add_checkpoint(session: Session, new: NewCheckpoint) -> bool:
    """Record a checkpoint; False if one with this digest, hence this content, is recorded already.

    Of where that came from, the last URL is kept: every node can import it from there again.
    """
    is_new = insert_if_absent(session, CheckpointRow, asdict(new))
    if not is_new and _is_url(new.source):
        session.execute(
            update(CheckpointRow).where(CheckpointRow.digest == new.digest).values(source=new.source),
            execution_options=AS_READ,
        )
    return is_new


def _is_url(source: str) -> bool:
    return "://" in source and not source.startswith("/")


def get_checkpoint(session: Session, digest: str) -> CheckpointRow:
    """Read a checkpoint; raises NotFoundError."""
    row = session.get(CheckpointRow, digest)
    if row is None:
        raise NotFoundError(f"there is no checkpoint {digest}")
    return row


def list_checkpoints(session: Session) -> list[StoredCheckpoint]:
    """List checkpoints, newest first."""
    models: dict[str | None, list[str]] = {}
    for name, digest in session.execute(select(ModelRow.name, ModelRow.checkpoint).order_by(ModelRow.name)):
        models.setdefault(digest, []).append(name)
    names = [field.name for field in fields(StoredCheckpoint) if field.name != "models"]
    columns = [getattr(CheckpointRow, name) for name in names]
    rows = session.execute(select(*columns).order_by(CheckpointRow.created_at.desc(), CheckpointRow.digest))
    return [StoredCheckpoint(**row._mapping, models=tuple(models.get(row.digest, ()))) for row in rows]  # noqa: SLF001 - public, for all its name


def checkpoint_sizes(session: Session) -> Mapping[str, int]:
    """Digests of all checkpoints, and what each takes on a disk."""
    rows = session.execute(select(CheckpointRow.digest, CheckpointRow.num_bytes))
    return {row.digest: row.num_bytes for row in rows}


def delete_checkpoint(session: Session, digest: str) -> bool:
    """Forget a checkpoint and its placements; False if it is unknown. Raises ConflictError if a model uses it."""
    in_use = exists().where(ModelRow.checkpoint == digest)
    statement = delete(CheckpointRow).where(CheckpointRow.digest == digest, ~in_use)
    if took_place(session, statement):
        return True
    if session.scalar(select(in_use)):
        raise ConflictError(f"a model uses the checkpoint {digest}")
    return False


def put_model(
    session: Session, settings: ModelSettings, *, deployment: str, now: datetime, seen_version: int | None = None
) -> bool:
    """Record that a model is to be deployed by that operation; True if it is new.

    Only the deployment that was asked for last may change the model. One that serves goes on with what it has until
    `note_deployed`; `change_serving` is for what needs no deployment.

    Raises ConflictError if `seen_version` is not the row's version (0: the model must not exist), or if the model
    is being deleted.
    """
    started = {"deployment": deployment, "updated_at": now}
    unserved = {**asdict(settings), **started, "state": ModelState.DEPLOYING, "error": None}
    if seen_version in {None, 0} and insert_if_absent(session, ModelRow, {**unserved, "created_at": now}):
        return True
    change = _of_model(settings.name)
    if seen_version is not None:
        change = change.where(ModelRow.version == seen_version)
    never_served = change.where(ModelRow.state.in_({ModelState.DEPLOYING, ModelState.FAILED}))
    serves = change.where(ModelRow.state == ModelState.READY)
    # In this order: what becomes ready in between is met by the second.
    if not (took_place(session, never_served.values(**unserved)) or took_place(session, serves.values(**started))):
        raise ConflictError(f"the model {settings.name} has changed meanwhile or is being deleted")
    return False


def lock_model(session: Session, name: str) -> ModelRow | None:
    """Read a model and keep others from changing it until this transaction ends; None if there is none.

    Whoever ends a deploy operation locks its model first: two that took these locks in opposite orders would block
    each other.
    """
    query = select(ModelRow).where(ModelRow.name == name).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def change_serving(session: Session, name: str, settings: ServingSettings, *, seen_version: int, now: datetime) -> bool:
    """Change what needs no deployment; False if the row is no longer the one that was seen."""
    change = _of_model(name).where(ModelRow.version == seen_version, ModelRow.state != ModelState.DELETING)
    return took_place(session, change.values(**asdict(settings), updated_at=now))


def get_model(session: Session, name: str) -> ModelRow:
    """Read a model; raises NotFoundError."""
    row = session.get(ModelRow, name, populate_existing=True)
    if row is None:
        raise NotFoundError(f"there is no model {name!r}")
    return row


def list_models(session: Session, *, ready_only: bool = False) -> Sequence[ModelRow]:
    """List models by name."""
    query = select(ModelRow).order_by(ModelRow.name)
    if ready_only:
        query = query.where(ModelRow.state == ModelState.READY)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def note_deployed(
    session: Session, settings: ModelSettings, deployed: DeployedModel, *, deployment: str, now: datetime
) -> bool:
    """Serve a model with these settings from now on; False if that deployment is not its last one any more."""
    values = {**asdict(settings), **asdict(deployed), "state": ModelState.READY, "error": None, "updated_at": now}
    change = _of_model(settings.name).where(
        ModelRow.deployment == deployment, ModelRow.state.in_({ModelState.DEPLOYING, ModelState.READY})
    )
    return took_place(session, change.values(**values))


def note_deploy_failed(session: Session, name: str, error: str, *, deployment: str, now: datetime) -> bool:
    """Record why a model cannot be served; False if it serves what it had before, or is deployed by another one."""
    change = _of_model(name).where(ModelRow.deployment == deployment, ModelRow.state == ModelState.DEPLOYING)
    return took_place(session, change.values(state=ModelState.FAILED, error=error, updated_at=now))


def note_deleting(session: Session, name: str, *, now: datetime) -> bool:
    """Stop a model from taking jobs; False if it is unknown or being deleted already."""
    change = _of_model(name).where(ModelRow.state != ModelState.DELETING)
    return took_place(session, change.values(state=ModelState.DELETING, updated_at=now))


def remove_model(session: Session, name: str) -> bool:
    """Forget a model that is being deleted; False if there is none in that state."""
    statement = delete(ModelRow).where(ModelRow.name == name, ModelRow.state == ModelState.DELETING)
    return took_place(session, statement)


def model_info(row: ModelRow) -> ModelInfo:
    """See a ready model as scheduling does; raises ConflictError if it has no checkpoint yet."""
    if row.checkpoint is None:
        raise ConflictError(f"the model {row.name!r} is not deployed yet")
    return ModelInfo(
        name=row.name,
        checkpoint=row.checkpoint,
        num_gpus=row.num_gpus,
        bytes_per_gpu=row.bytes_per_gpu,
        max_jobs=row.max_jobs,
        context=row.context,
        keep_alive_s=None if row.keep_alive_auto else row.keep_alive_s,
        min_replicas=row.min_replicas,
        max_replicas=row.max_replicas,
        engine=engine_at(row.engine, row.exactness),
        checkpoint_bytes=row.weights_bytes,
    )


def _of_model(name: str) -> Update:
    return update(ModelRow).where(ModelRow.name == name).values(version=ModelRow.version + 1)
