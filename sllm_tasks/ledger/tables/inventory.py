"""Models, checkpoints, where they are to be, and how fast they were loaded."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.cluster import Tier
from sllm_tasks.jobs import Exactness
from sllm_tasks.ledger.columns import JSON_VALUE, Base, Message, by_value
from sllm_tasks.ledger.states import ModelState


class CheckpointRow(Base):
    """A checkpoint, with the small files that the web needs to build prompts without loading it."""

    __tablename__ = "checkpoints"
    __table_args__ = (CheckConstraint("num_bytes >= 0 AND num_parameters >= 0", name="sizes"),)

    digest: Mapped[str] = mapped_column(primary_key=True, comment="of the manifest")
    source: Mapped[str] = mapped_column(Text, comment="where it was imported from")
    architecture: Mapped[str]
    dtype: Mapped[str]
    num_bytes: Mapped[int]
    num_parameters: Mapped[int]
    num_partitions: Mapped[int]
    config: Mapped[str] = mapped_column(Text, comment="config.json")
    generation_config: Mapped[str | None] = mapped_column(Text)
    tokenizer: Mapped[str | None] = mapped_column(Text, comment="tokenizer.json")
    tokenizer_config: Mapped[str | None] = mapped_column(Text)
    chat_template: Mapped[str | None] = mapped_column(Text)
    eos_token_ids: Mapped[list[int]] = mapped_column(JSON_VALUE)
    created_at: Mapped[datetime]


class ModelRow(Base):
    """A deployable name: a checkpoint and the settings it is served with, or is to be while it never was."""

    __tablename__ = "models"
    __table_args__ = (
        CheckConstraint(
            "state = 'deleting' OR (state = 'ready') = (checkpoint IS NOT NULL)", name="ready_has_checkpoint"
        ),
        CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="failed_has_error"),
        CheckConstraint("min_replicas >= 0 AND max_replicas >= min_replicas", name="replicas"),
        CheckConstraint("num_gpus >= 1 AND max_jobs >= 1 AND context >= 1", name="limits"),
        CheckConstraint("keep_alive_s >= 0", name="keep_alive_s"),
        CheckConstraint("bytes_per_gpu >= 0 AND weights_bytes >= 0 AND kv_bytes_per_token >= 0", name="sizes"),
        Index(None, "checkpoint"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    checkpoint: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.digest"), comment="null until deployed")
    source: Mapped[str] = mapped_column(Text, comment="what was asked for: a path, a URL or a digest")
    engine: Mapped[str]
    dtype: Mapped[str]
    exactness: Mapped[Exactness] = mapped_column(by_value(Exactness, "exactness"))
    num_gpus: Mapped[int]
    max_jobs: Mapped[int] = mapped_column(comment="decoded together by one replica")
    context: Mapped[int] = mapped_column(comment="prompt plus output tokens of one job")
    keep_alive_s: Mapped[float]
    keep_alive_auto: Mapped[bool] = mapped_column(default=False, comment="as its jobs come; keep_alive_s is not used")
    min_replicas: Mapped[int]
    max_replicas: Mapped[int]
    weights_bytes: Mapped[int] = mapped_column(default=0, comment="0 until deployed")
    kv_bytes_per_token: Mapped[int] = mapped_column(default=0, comment="0 until deployed")
    bytes_per_gpu: Mapped[int] = mapped_column(default=0, comment="weights and KV cache; 0 until deployed")
    state: Mapped[ModelState] = mapped_column(by_value(ModelState, "state"))
    error: Mapped[str | None] = mapped_column(Message)
    deployment: Mapped[str] = mapped_column(comment="the operation of the last deployment that was asked for")
    version: Mapped[int] = mapped_column(default=1, comment="grows with every change of the row")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class PlacementRow(Base):
    """The tier a checkpoint should have and has on a node."""

    __tablename__ = "placements"
    __table_args__ = (
        CheckConstraint("desired IS NULL OR desired <> 'remote'", name="desired_is_local"),
        CheckConstraint("actual IS NULL OR actual <> 'remote'", name="actual_is_local"),
        Index(None, "node"),
    )

    checkpoint: Mapped[str] = mapped_column(ForeignKey("checkpoints.digest", ondelete="CASCADE"), primary_key=True)
    node: Mapped[str] = mapped_column(primary_key=True)
    desired: Mapped[Tier | None] = mapped_column(by_value(Tier, "desired"), comment="null: not wanted there")
    actual: Mapped[Tier | None] = mapped_column(by_value(Tier, "actual"), comment="fastest tier that has all")
    pinned: Mapped[bool] = mapped_column(default=False, comment="no policy may move or evict it")
    version: Mapped[int] = mapped_column(default=1)
    updated_at: Mapped[datetime]
    actual_at: Mapped[datetime | None] = mapped_column(comment="when the node last reported")


class MeasuredLoadRow(Base):
    """One load that happened; estimates are learned from these."""

    __tablename__ = "measured_loads"
    __table_args__ = (
        CheckConstraint("num_bytes >= 0 AND seconds >= 0", name="amounts"),
        Index(None, "node", "tier", "at"),
        Index(None, "at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    checkpoint: Mapped[str] = mapped_column(comment="a digest: measurements outlive checkpoints")
    node: Mapped[str]
    gpu: Mapped[int | None] = mapped_column(comment="null: a prefetch into DRAM or the SSD")
    tier: Mapped[Tier] = mapped_column(by_value(Tier, "tier"), comment="the slowest tier that was read")
    num_bytes: Mapped[int]
    seconds: Mapped[float]
    at: Mapped[datetime]
