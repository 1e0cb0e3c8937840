"""What each process really imports when it is put together: heavy libraries stay where they are needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TENSORS = frozenset({"torch", "numba", "transformers", "loaders", "cuda_kernels"})
_TENSOR_LIBRARIES = frozenset({"torch", "numba", "transformers", "numpy"})
_SQL = frozenset({"sqlalchemy", "alembic", "sllm_tasks.ledger"})
_SERVERS = frozenset({"celery", "kombu", "redis", "flask", "sqlalchemy"})
_BUILD = "from sllm_tasks.config import load_settings\nfrom {module} import build_app\nbuild_app(load_settings()[0])"

#: Per process: the code that puts it together, and what must not be loaded afterwards.
_PROCESSES = {
    "web": ("import webapp.wsgi, webapp.server", _TENSORS),
    "router": (_BUILD.format(module="sllm_tasks.router.app"), _TENSORS | {"flask"}),
    "control": (_BUILD.format(module="sllm_tasks.control.app"), _TENSORS | {"flask"}),
    "node": (_BUILD.format(module="sllm_tasks.node_agent.app"), _TENSOR_LIBRARIES | _SQL | {"flask"}),
    "worker": (_BUILD.format(module="sllm_tasks.worker.app"), _SQL | {"flask"}),
    "supervisor": ("import sllm_tasks.supervisor", _TENSORS | {"celery", "flask"}),
    "client": ("import sllm_tasks.client", _TENSORS | _SERVERS),
    "command line": ("import sllm_tasks.cli.main", _TENSORS | _SERVERS),
}


@pytest.mark.parametrize("process", _PROCESSES)
def test_a_process_imports_only_what_it_needs(process: str, tmp_path: Path) -> None:
    code, forbidden = _PROCESSES[process]
    report = "\nimport sys\nprint('\\n'.join(sys.modules))"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLLM_")}
    done = subprocess.run(
        [sys.executable, "-c", code + report],
        env={**environ, "SLLM_HOME": str(tmp_path), "SLLM_NODE": "node0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert forbidden.isdisjoint(done.stdout.split())
