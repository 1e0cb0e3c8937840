"""Wanted placements come true over nodes that die and disks that fill, or say why not; nodes agree with the ledger."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from loaders.writer.convert import convert
from sllm_tasks.cluster import NodeInfo, Tier
from sllm_tasks.config import load_settings
from sllm_tasks.ledger import inventory, placements
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.placement_progress import placement_progress
from sllm_tasks.ledger.schema import upgrade
from sllm_tasks.livestate import LiveState
from sllm_tasks.node_agent.store import CheckpointStore
from tests.integration.ledger.factories import make_checkpoint
from tests.support.processes import Processes, own_environ, wait_until
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.slow

_NUM_CHECKPOINTS = 20
_CHECKPOINT_BYTES = 2 << 20
#: Holds half of the checkpoints and a few more: a fetch asks for 16 MiB beside the checkpoint's own.
_SMALL_DISK_BYTES = 52 << 20
_BIG, _SMALL = "big", "small"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own that fills up soon."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount the small file system that this test fills: run it as root")
    folder = Path(tempfile.mkdtemp(prefix="sllm-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SMALL_DISK_BYTES}", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.rmdir()


class _Nodes:
    """Control and two node agents over one broker and one ledger; every node begins with half of the checkpoints."""

    def __init__(self, home: Path, small_disk: Path, redis_url: str) -> None:
        self.home = home
        environ = own_environ(home, SLLM_REDIS_URL=redis_url, SLLM_SECRET="a secret of both nodes")
        settings = load_settings(environ=environ)[0]
        upgrade(settings.ledger_url)
        self.ledger = Database(settings.ledger_url)
        self.live = LiveState(redis_url)
        self.processes = Processes(home / "logs")
        self._environ = {name: {**environ, "SLLM_NODE": name} for name in (_BIG, _SMALL)}
        (home / "nodes" / _SMALL).mkdir(parents=True)
        (home / "nodes" / _SMALL / "checkpoints").symlink_to(small_disk)
        stores = [CheckpointStore(home / "nodes" / name / "checkpoints") for name in (_BIG, _SMALL)]
        self.digests = [_publish(stores[seed % 2], seed) for seed in range(_NUM_CHECKPOINTS)]
        with self.ledger.transaction() as session:
            for digest in self.digests:
                inventory.add_checkpoint(session, make_checkpoint(digest))

    def start(self, node: str) -> None:
        """Start a node's agent."""
        self.processes.start(node, ("node",), self._environ[node])

    def start_control(self) -> None:
        """Start control."""
        self.processes.start("control", ("control",), self._environ[_BIG])

    def want_everything_everywhere(self) -> None:
        """Want every checkpoint on both SSDs, and two of them in the DRAM of the big node."""
        now = datetime.now(UTC)
        with self.ledger.transaction() as session:
            for number, digest in enumerate(self.digests):
                tier = Tier.DRAM if number < 2 else Tier.SSD
                placements.want_placement(session, digest, _BIG, tier=tier, pinned=True, now=now)
                placements.want_placement(session, digest, _SMALL, tier=Tier.SSD, pinned=True, now=now)

    def nodes(self) -> dict[str, NodeInfo]:
        """What live nodes report."""
        return {node.name: node for node in self.live.fleet.nodes(self.live.now_ms())}

    def unmet(self) -> dict[tuple[str, str], str | None]:
        """Placements that are not true, with the reason that is given."""
        with self.ledger.reading() as session:
            rows = [row for row in placements.list_placements(session) if not placements.is_met(row)]
            progress = placement_progress(session, rows, datetime.now(UTC))
            errors = {key: each.error for key, each in progress.items()}
        return {key: None if error is None else error.code for key, error in errors.items()}

    def actual(self) -> dict[str, frozenset[str]]:
        """What the ledger says is on each node."""
        with self.ledger.reading() as session:
            rows = placements.list_placements(session)
            return {
                name: frozenset(row.checkpoint for row in rows if row.node == name and row.actual is not None)
                for name in (_BIG, _SMALL)
            }

    def close(self) -> None:
        """End everything."""
        self.processes.kill_all()
        self.ledger.close()
        self.live.close()


def _publish(store: CheckpointStore, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(0, 255, (_CHECKPOINT_BYTES,), dtype=torch.uint8, generator=generator)
    digest = convert({"weights": weights}, store.finished("made")).digest
    store.publish(store.finished("made"), digest)
    return digest


@pytest.fixture
def two_nodes(tmp_path: Path, small_disk: Path) -> Iterator[_Nodes]:
    with ExitStack() as resources:
        server = resources.enter_context(ValkeyServer())
        nodes = _Nodes(tmp_path, small_disk, server.url)
        resources.callback(nodes.close)
        yield nodes


def test_placements_come_true_or_say_why_not_though_a_node_is_killed_and_a_disk_is_full(two_nodes: _Nodes) -> None:
    for node in (_BIG, _SMALL):
        two_nodes.start(node)
    wait_until(lambda: len(two_nodes.nodes()) == 2, "both nodes are up")
    two_nodes.start_control()
    two_nodes.want_everything_everywhere()
    # In the middle: some copies were made, and more are on their way.
    half = _NUM_CHECKPOINTS // 2
    wait_until(lambda: len(two_nodes.nodes()[_BIG].checkpoints) > half, "the big node has fetched something", 120)
    two_nodes.processes.kill(_BIG)
    wait_until(lambda: _BIG not in two_nodes.nodes(), "the big node is found dead")
    two_nodes.start(_BIG)

    def is_settled() -> bool:
        unmet = two_nodes.unmet()
        return all(node == _SMALL and code == "disk_full" for (_, node), code in unmet.items())

    wait_until(is_settled, "every placement is true or refused because the disk is full", 180)
    refused = {digest for digest, _ in two_nodes.unmet()}
    nodes = two_nodes.nodes()
    assert nodes[_BIG].checkpoints == frozenset(two_nodes.digests)
    assert nodes[_BIG].kept_in_dram == frozenset(two_nodes.digests[:2])
    assert nodes[_SMALL].checkpoints == frozenset(two_nodes.digests) - refused
    assert 0 < len(refused) < half
    assert two_nodes.actual() == {name: node.checkpoints for name, node in nodes.items()}
    # Nothing half done is left where there was no room for it.
    store = CheckpointStore(two_nodes.home / "nodes" / _SMALL / "checkpoints")
    assert store.aside() == []
