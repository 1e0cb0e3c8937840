"""The secret of a cluster: made once, and never one by which everybody could sign."""

from __future__ import annotations

from pathlib import Path

import pytest

from sllm_tasks.config import Settings
from sllm_tasks.errors import ConfigError
from sllm_tasks.secrets import cluster_secret


def test_a_state_folder_makes_its_secret_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert cluster_secret(settings) == cluster_secret(settings) == (tmp_path / "secret").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_an_empty_secret_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    with pytest.raises(ConfigError, match=f"^{tmp_path}/secret is empty"):
        cluster_secret(Settings(home=tmp_path))
