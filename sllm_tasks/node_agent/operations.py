"""What a node's agent does with checkpoints: one method per kind of operation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders.remote.url import is_url
from sllm_tasks.cluster import NodeInfo
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.node_agent.apart.process import Work, work_apart
from sllm_tasks.node_agent.dram import DramTier
from sllm_tasks.node_agent.lease import OperationLease
from sllm_tasks.node_agent.room import Room, RoomKeeper
from sllm_tasks.node_agent.store import CheckpointStore
from sllm_tasks.operations import OperationKind

#: Checkpoints that a calibration reads at most, as far as its time allows.
_MAX_MEASURED = 64

#: What an operation gave, as it goes into the ledger.
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Watch:
    """Watches over a process that may need room: what it says goes to the lease, what it asks for to the room."""

    lease: OperationLease
    room: Room | None = None

    def note(self, done_bytes: int, total_bytes: int) -> None:
        self.lease.note(done_bytes, total_bytes)

    def is_canceled(self) -> bool:
        return self.lease.is_canceled()

    def grant(self, num_bytes: int) -> None:
        if self.room is None:
            raise ModelUnusableError(ErrorCode.INTERNAL, "room on the SSD was asked for where none is needed")
        self.room.grant(num_bytes)


class NodeOperations:
    """Runs operations, several at once; each raises SllmError when it cannot be done, and leaves nothing half done."""

    def __init__(  # noqa: PLR0913 - all by keyword, and each is a part of the node
        self,
        *,
        node: str,
        secret: str,
        store: CheckpointStore,
        rooms: RoomKeeper,
        dram: DramTier,
        peers: Callable[[], list[NodeInfo]],
        nursery: Path | None = None,
    ) -> None:
        """`peers` tells which nodes live, this one included; it may raise UnavailableError.

        `nursery` is where one listens that forks processes (`sllm_tasks.node_agent.apart.nursery`), if one does.
        """
        self._node = node
        self._secret = secret
        self._store = store
        self._rooms = rooms
        self._dram = dram
        self._peers = peers
        self._nursery = nursery
        self._kinds: dict[str, Callable[[str, dict[str, Any], OperationLease], Result]] = {
            OperationKind.DEPLOY: self._deploy,
            OperationKind.FETCH: self._fetch,
            OperationKind.DROP_CHECKPOINT: self._drop,
            OperationKind.VERIFY: self._verify,
            OperationKind.PREFETCH: self._prefetch,
            OperationKind.EVICT: self._evict,
            OperationKind.CALIBRATE: self._calibrate,
        }

    def run(self, kind: str, target: str, args: dict[str, Any], lease: OperationLease) -> Result:
        """Run an operation."""
        self._rooms.forget_old()
        return self._kinds[kind](target, args, lease)

    def _deploy(self, target: str, args: dict[str, Any], lease: OperationLease) -> Result:
        del target
        source = str(args["source"])
        if not is_url(source) and not Path(source).is_dir():
            message = f"there is no directory {source} on node {self._node}"
            raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, message)
        result = self._import(source, args["num_gpus"], lease)
        return {**result, "num_bytes": self._store.num_bytes(result["digest"])}

    def _fetch(self, target: str, args: dict[str, Any], lease: OperationLease) -> Result:
        if target in self._store.digests():
            return {"digest": target}
        nodes = [node for node in self._peers() if target in node.checkpoints and node.name != self._node]
        urls = [node.url for node in nodes if node.url]
        if not urls:
            return self._import_again(target, args, lease)
        request = {"digest": target, "urls": urls, "secret": self._secret}
        return self._grow(Work.FETCH, target, request, lease, wanted=target)

    def _import_again(self, target: str, args: dict[str, Any], lease: OperationLease) -> Result:
        """Get a checkpoint that no live node has from the URL that it was imported from."""
        lost, source = f"no live node has checkpoint {target}", str(args.get("source", ""))
        if not is_url(source):
            raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, f"{lost}, and it was not imported from a URL")
        try:
            result = self._import(source, args["num_gpus"], lease, wanted=target)
        except ModelUnusableError as error:
            raise ModelUnusableError(error.code, f"{lost}, and importing it again failed: {error}") from error
        if result["digest"] != target:
            message = f"{lost}, and by now {source} has another one: {result['digest']}"
            raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, message)
        return {"digest": target}

    def _import(self, source: str, num_gpus: int, lease: OperationLease, *, wanted: str | None = None) -> Result:
        """Write a checkpoint into the store; returns what it is."""
        request = {"source": source, "num_gpus": num_gpus}
        # The same import grows in the same place: what died half-way goes on from there.
        name = f"import-{hashlib.sha256(json.dumps(request).encode()).hexdigest()[:24]}"
        return self._grow(Work.IMPORT, name, request, lease, wanted=wanted)

    def _grow(
        self, work: Work, name: str, request: dict[str, Any], lease: OperationLease, *, wanted: str | None
    ) -> Result:
        """Let a checkpoint grow in the store's work folder and publish it, unless it is another one than is wanted.

        What a full disk cut short gives its room back.
        """
        with self._rooms.working(name, lease.is_canceled) as room:
            made = self._store.finished(name)
            try:
                done = work_apart(work, {**request, "destination": str(made)}, _Watch(lease, room), self._nursery)
            except ModelUnusableError as error:
                if error.code is ErrorCode.DISK_FULL:
                    self._store.discard(name)
                raise
            result = {"digest": wanted, **done}
            if wanted in {None, result["digest"]}:
                self._store.publish(made, result["digest"])
            else:
                self._store.discard(name)
            return result

    def _drop(self, target: str, args: dict[str, Any], lease: OperationLease) -> Result:
        del args, lease
        self._store.delete(target)
        self._dram.free(target)
        return {"digest": target}

    def _verify(self, target: str, args: dict[str, Any], lease: OperationLease) -> Result:
        del args
        request = {"path": str(self._store.path(target)), "digest": target}
        try:
            return {"digest": target, **work_apart(Work.VERIFY, request, _Watch(lease), self._nursery)}
        except ModelUnusableError as error:
            if error.code is not ErrorCode.CHECKPOINT_CORRUPT:
                raise
            aside = self._store.quarantine(target)
            raise ModelUnusableError(error.code, f"{error}; the copy was put aside as {aside.name}") from error

    def _prefetch(self, target: str, args: dict[str, Any], lease: OperationLease) -> Result:
        del args
        path = self._store.path(target)
        if not self._dram.capacity_bytes:
            raise ModelUnusableError(ErrorCode.OUT_OF_MEMORY, f"node {self._node} has no DRAM tier: pool_bytes is 0")
        request = {"path": str(path), "pool_folder": str(self._dram.folder), "pool_bytes": self._dram.capacity_bytes}
        return {"digest": target, **work_apart(Work.PREFETCH, request, _Watch(lease), self._nursery)}

    def _evict(self, target: str, args: dict[str, Any], lease: OperationLease) -> Result:
        del args, lease
        return {"digest": target, "is_freed": self._dram.free(target)}

    def _calibrate(self, target: str, args: dict[str, Any], lease: OperationLease) -> Result:
        del target, args
        # The largest first: what takes longest tells most.
        digests = sorted(self._store.digests(), key=self._store.num_bytes, reverse=True)[:_MAX_MEASURED]
        if not digests:
            message = f"node {self._node} has no checkpoint whose reading could be measured"
            raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, message)
        paths = [str(path) for digest in digests for path in sorted(self._store.path(digest).glob("partition_*.bin"))]
        request = {"paths": paths}
        return {"checkpoint": digests[0], **work_apart(Work.CALIBRATE, request, _Watch(lease), self._nursery)}
