"""Every kernel becomes machine code for an H200, with registers to spare and nothing spilled.

Needs no GPU, but the compiler that comes with the extra `gpu`, and ptxas at least as new.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from cuda_kernels.gpu import digest, gumbel, unpack
from cuda_kernels.gpu.numba_cuda import KernelSource, cuda

#: Blocks of 256 threads fill a multiprocessor, at 65536 registers, up to 8 times with 32 each, 4 times with 64.
_MAX_REGISTERS = {"digest": 32, "unpack": 40, "patch": 40, "gumbel": 64}
_KERNELS = {
    "digest": digest.DIGEST,
    "unpack": unpack.UNPACK,
    "patch": unpack.PATCH,
    "gumbel": gumbel.BEST_OF_BLOCKS,
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" or getattr(cuda, "implementation", "") != "NVIDIA",
        reason="KERNELS WERE NOT COMPILED: numba-cuda is not installed (pip install .[gpu])",
    ),
    pytest.mark.skipif(
        shutil.which("ptxas") is None, reason="KERNELS WERE NOT COMPILED: no ptxas (it comes with the CUDA toolkit)"
    ),
]


@pytest.mark.parametrize("name", _KERNELS)
def test_a_kernel_spills_nothing_and_keeps_to_its_registers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Functions that kernels call are compiled for the device at hand: pretend that it is an H200.
    monkeypatch.setattr(cuda.dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0)))
    source: KernelSource = _KERNELS[name]
    for signature in source.signatures:
        ptx, _ = cuda.compile_ptx(source.function, signature, cc=(9, 0))
        path = tmp_path / "kernel.ptx"
        path.write_text(ptx)
        done = subprocess.run(
            ["ptxas", "-v", "-arch=sm_90", str(path), "-o", os.devnull], check=False, capture_output=True, text=True
        )
        report = done.stdout + done.stderr
        if "Unsupported .version" in report:
            pytest.skip("KERNELS WERE NOT COMPILED: ptxas is older than the compiler")
        assert done.returncode == 0, report
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report
        used = re.search(r"Used (\d+) registers", report)
        assert used is not None
        assert int(used[1]) <= _MAX_REGISTERS[name]
