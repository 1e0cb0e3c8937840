"""Which processes `sllm up` starts, and what it tells each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sllm_tasks import supervisor
from sllm_tasks.children import ChildSpec
from sllm_tasks.config import Settings

num_nvidia_gpus = supervisor.num_nvidia_gpus


@pytest.fixture(autouse=True)
def without_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "num_nvidia_gpus", lambda: 0)
    monkeypatch.setattr(supervisor, "ram_bytes", lambda: 1600)


def _workers(settings: Settings) -> dict[str, ChildSpec]:
    return {spec.name: spec for spec in supervisor.process_specs(settings) if spec.name.startswith("worker")}


def test_a_node_without_accelerator_has_as_many_cpu_gpus_as_it_is_told(tmp_path: Path) -> None:
    names = [spec.name for spec in supervisor.process_specs(Settings(home=tmp_path, nodes=2, gpus_per_node=2))]
    assert [name for name in names if name.startswith("node")] == ["node-node0", "node-node1"]
    workers = _workers(Settings(home=tmp_path, nodes=2, gpus_per_node=2))
    assert list(workers) == [f"worker-node{node}.{gpu}" for node in range(2) for gpu in range(2)]
    assert [spec.environ["SLLM_GPU"] for spec in workers.values()] == ["0", "1", "0", "1"]
    assert [spec.environ["SLLM_NODE"] for spec in workers.values()] == ["node0", "node0", "node1", "node1"]


@pytest.mark.parametrize(("nodes", "gpus_per_node"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_all_cpu_gpus_together_get_half_of_the_memory(tmp_path: Path, nodes: int, gpus_per_node: int) -> None:
    workers = _workers(Settings(home=tmp_path, nodes=nodes, gpus_per_node=gpus_per_node)).values()
    assert sum(int(spec.environ["SLLM_GPU_MEMORY_BYTES"]) for spec in workers) == 800


def test_the_gpus_of_a_node_and_its_agent_share_one_pool(tmp_path: Path) -> None:
    specs = supervisor.process_specs(Settings(home=tmp_path, nodes=2, gpus_per_node=2))
    sizes = {spec.environ["SLLM_POOL_BYTES"] for spec in specs if spec.name.startswith(("node", "worker"))}
    assert len(sizes) == 1


def test_one_nursery_serves_all_agents_unless_its_socket_has_no_place(tmp_path: Path) -> None:
    specs = supervisor.process_specs(Settings(home=tmp_path, nodes=2))
    (nursery,) = [spec for spec in specs if spec.name == "nursery"]
    assert (nursery.command[-1], nursery.is_forked) == (str(tmp_path / "run" / "nursery.sock"), True)
    deep = tmp_path / ("x" * 100)
    assert "nursery" not in {spec.name for spec in supervisor.process_specs(Settings(home=deep))}


@pytest.mark.parametrize(
    ("visible", "num_gpus"),
    [
        (None, 4),
        ("2,3", 2),
        ("1", 1),
        (" 0, 2 ", 2),
        ("GPU-2f5a,GPU-77", 2),
        ("MIG-1d4e", 1),
        ("", 0),
        ("-1", 0),
        ("0,9,1", 1),
    ],
)
def test_only_gpus_that_cuda_lets_processes_see_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, num_gpus: int
) -> None:
    listing = "".join(f"echo 'GPU {number}: NVIDIA H200 (UUID: GPU-{number}a)'\n" for number in range(4))
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{listing}")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert num_nvidia_gpus() == num_gpus
