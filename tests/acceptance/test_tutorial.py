"""The tutorial, word for word: its commands and its Python, on a live cluster."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sllm_tasks.cli.main import sllm
from tests.support.cluster import Cluster

pytestmark = pytest.mark.slow

_TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "first-job.md"


def _run(line: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run one line of a shell block in this process; returns what it printed."""
    words = shlex.split(line)
    if words[0] == "sllm":
        done = CliRunner().invoke(sllm, words[1:], catch_exceptions=False)
        assert done.exit_code == 0, (line, done.output)
        return done.stdout
    assert words[:2] == ["python", "-m"], line
    monkeypatch.setattr(sys, "argv", words[2:])
    importlib.import_module(words[2]).main()
    return ""


def test_what_the_tutorial_says_works(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLLM_URL", cluster.client.url)
    monkeypatch.setenv("SLLM_API_KEY", cluster.api_key)
    blocks = re.findall(r"```(sh|python)\n(.*?)```", _TUTORIAL.read_text(encoding="utf-8"), flags=re.DOTALL)
    printed = {}
    for kind, block in blocks:
        if kind == "python":
            exec(block, {})
            assert "Usage(prompt_tokens=" in capsys.readouterr().out
        else:
            printed |= {line: _run(line, monkeypatch) for line in block.strip().splitlines()}
    assert "tutorial" in printed["sllm models"]
    assert "tutorial" not in printed["sllm ps"]
    assert printed['sllm run tutorial "Once upon a time" --max-tokens 20'].strip()
    assert "tutorial" in printed["sllm job ls"]
    assert "tutorial" not in [model["id"] for model in cluster.client.models()]
