"""The web process stays light: a model never gets into it."""

from __future__ import annotations

import subprocess
import sys


def test_the_web_process_and_the_client_import_nothing_heavy() -> None:
    for module, heavy in {
        "webapp.server": {"torch", "numba", "transformers", "loaders"},
        "sllm_tasks.client": {"torch", "numba", "transformers", "celery", "redis", "sqlalchemy", "flask", "webapp"},
    }.items():
        program = f"import sys, {module}; print(sorted({heavy!r} & sys.modules.keys()))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]", module
