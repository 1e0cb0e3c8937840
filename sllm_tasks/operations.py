"""Kinds of admin work that takes a while."""

from __future__ import annotations

from enum import StrEnum


class OperationKind(StrEnum):
    """What an operation does.

    Its `target` is a model for DEPLOY and DELETE_MODEL, a node for CALIBRATE, else a checkpoint's digest.
    """

    #: Check a checkpoint directory, write it into a node's store, and make the model usable. Args: source, node.
    DEPLOY = "deploy"
    #: Get a checkpoint from a node that has it. Args: node.
    FETCH = "fetch"
    #: Delete a checkpoint from a node. Args: node.
    DROP_CHECKPOINT = "drop_checkpoint"
    #: Read all of a checkpoint on a node's SSD; a damaged one is put aside. Args: node.
    VERIFY = "verify"
    #: Bring a checkpoint from a node's SSD into its DRAM, and keep it there. Args: node.
    PREFETCH = "prefetch"
    #: Keep a checkpoint in a node's DRAM no longer. Args: node.
    EVICT = "evict"
    #: Measure what the tiers of a node deliver. Args: node.
    CALIBRATE = "calibrate"
    #: Stop serving a model and forget it. Run by control.
    DELETE_MODEL = "delete_model"
