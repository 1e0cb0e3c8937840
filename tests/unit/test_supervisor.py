"""Which processes `sllm up` starts, and what it tells each of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sllm_tasks import accelerators, supervisor
from sllm_tasks.children import ChildSpec
from sllm_tasks.cli.doctor_machine import look_at_processors
from sllm_tasks.config import Settings

_TWO_GPUS = """\
GPU 0: NVIDIA H200 (UUID: GPU-6a3c5d1e-0000-0000-0000-000000000000)
  MIG 1g.18gb     Device  0: (UUID: MIG-6a3c5d1e-0000-0000-0000-000000000001)
GPU 1: NVIDIA H200 (UUID: GPU-6a3c5d1e-0000-0000-0000-000000000002)
"""


@pytest.fixture(autouse=True)
def without_accelerator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _have_gpus(monkeypatch, tmp_path, "")
    monkeypatch.setattr(supervisor, "ram_bytes", lambda: 1600)


def _have_gpus(monkeypatch: pytest.MonkeyPatch, folder: Path, listed: str) -> None:
    """Let `nvidia-smi -L` say so."""
    (folder / "listed").write_text(listed)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {folder / 'listed'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(accelerators, "torch_has_cuda", lambda: True)


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


@pytest.mark.parametrize(
    ("visible", "num_workers"),
    [(None, 2), ("0,1", 2), ("1", 1), ("1, 0", 2), ("0,2,1", 1), ("GPU-6a3c5d1e-0000-0000-0000-000000000002", 1)],
)
def test_each_gpu_that_processes_see_gets_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, num_workers: int
) -> None:
    _have_gpus(monkeypatch, tmp_path, _TWO_GPUS)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    workers = _workers(Settings(home=tmp_path, node="here"))
    assert list(workers) == [f"worker-here.{gpu}" for gpu in range(num_workers)]


@pytest.mark.parametrize(("device", "visible"), [("cpu", "0"), (None, ""), (None, "-1")])
def test_a_machine_whose_gpus_are_not_to_be_used_is_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str | None, visible: str
) -> None:
    _have_gpus(monkeypatch, tmp_path, _TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    workers = _workers(Settings(home=tmp_path, nodes=2, device=device))
    assert list(workers) == ["worker-node0.0", "worker-node1.0"]


def test_gpus_that_the_installed_torch_cannot_use_get_no_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _have_gpus(monkeypatch, tmp_path, _TWO_GPUS)
    monkeypatch.setattr(accelerators, "torch_has_cuda", lambda: False)
    assert list(_workers(Settings(home=tmp_path, nodes=1))) == ["worker-node0.0"]
    findings = {finding.what: finding for finding in look_at_processors(Settings(home=tmp_path))}
    assert "without CUDA" in findings["gpu"].detail


def test_one_nursery_serves_all_agents_unless_its_socket_has_no_place(tmp_path: Path) -> None:
    specs = supervisor.process_specs(Settings(home=tmp_path, nodes=2))
    (nursery,) = [spec for spec in specs if spec.name == "nursery"]
    assert (nursery.command[-1], nursery.is_forked) == (str(tmp_path / "run" / "nursery.sock"), True)
    deep = tmp_path / ("x" * 100)
    assert "nursery" not in {spec.name for spec in supervisor.process_specs(Settings(home=deep))}
