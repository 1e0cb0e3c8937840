"""Whatever is missing or wrong with numba, torch does the work, and says so once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cuda_kernels import backend
from cuda_kernels.backend import Backend, kernels_for, warm_up
from cuda_kernels.device_digest import device_digests
from cuda_kernels.digest import chunk_digest

_ROOT = Path(__file__).parents[3]
_CPU = torch.device("cpu")


def test_a_cpu_asks_for_no_kernels_and_imports_no_compiler() -> None:
    program = (
        "import sys, torch; from cuda_kernels.backend import warm_up;"
        "print(warm_up(torch.device('cpu')).backend, 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=_ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["torch", "False"]


def test_a_numba_that_fails_leaves_the_work_to_torch_and_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backend, "_found", {})
    # numba was imported without the simulator, so it tries to compile for a GPU that no tensor of a CPU is on.
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    support = warm_up(_CPU)
    assert support.backend is Backend.TORCH
    assert support.reason
    assert kernels_for(_CPU) is None
    assert len(caplog.records) == 1
    data = np.arange(100, dtype=np.uint8)
    assert device_digests(torch.from_numpy(data), 104)[0].item() % 2**64 == chunk_digest(data)


_IN_THE_SIMULATOR = """
import os, sys
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
import numpy as np, torch
{sabotage}
from cuda_kernels.backend import warm_up
from cuda_kernels.device_digest import device_digests
from cuda_kernels.digest import chunk_digest
np.seterr(over="ignore")
support = warm_up(torch.device("cpu"))
data = np.arange(100, dtype=np.uint8)
assert device_digests(torch.from_numpy(data), 104)[0].item() % 2**64 == chunk_digest(data)
print(support.backend, support.reason)
"""


@pytest.mark.parametrize(
    ("sabotage", "reason"),
    [
        ("sys.modules['numba'] = None", "ModuleNotFoundError"),
        (
            "import cuda_kernels.gpu.digest as d; d.DigestKernel.launch = lambda *arguments: None",
            "KernelMismatchError: what a kernel computes on cpu is wrong: digest",
        ),
    ],
)
def test_a_missing_numba_or_a_wrong_kernel_is_not_used(sabotage: str, reason: str) -> None:
    program = _IN_THE_SIMULATOR.format(sabotage=sabotage)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning", "-c", program],
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"torch {reason}")
