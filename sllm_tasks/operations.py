"""Kinds of admin work that takes a while."""

from __future__ import annotations

from enum import StrEnum


class OperationKind(StrEnum):
    """What an operation does; its `target` is a model for DEPLOY and DELETE_MODEL, else a checkpoint's digest."""

    #: Check a checkpoint directory, copy it into a node's store, and make the model usable. Args: source, node.
    DEPLOY = "deploy"
    #: Get a checkpoint from a node that has it. Args: node.
    FETCH = "fetch"
    #: Delete a checkpoint from a node's SSD. Args: node.
    DROP_CHECKPOINT = "drop_checkpoint"
    #: Stop serving a model and forget it. Run by control.
    DELETE_MODEL = "delete_model"
