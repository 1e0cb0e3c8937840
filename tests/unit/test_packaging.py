"""What a user installs: the packages, what they need at run time, and nothing of the workshop."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PACKAGES = {"cuda_kernels", "loaders", "migrations", "sllm_tasks", "webapp"}


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # A copy, so that the build leaves nothing in the tree and nothing of an earlier build gets in.
    shutil.copytree(_ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--no-index", "--wheel-dir", folder, source], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _source_files(package: str) -> set[str]:
    """Files of a package that belong into the wheel: whatever is not made by running it."""
    files = (path for path in (_ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(_ROOT)) for path in files}


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel_files: set[str]) -> None:
    contents = {name for name in wheel_files if ".dist-info/" not in name}
    expected = set().union(*map(_source_files, _PACKAGES))
    assert contents - expected == set()
    assert expected - contents == set()


def test_the_wheel_holds_scripts_of_the_live_state_schema_revisions_and_types(wheel_files: set[str]) -> None:
    assert any(name.startswith("sllm_tasks/livestate/lua/") for name in wheel_files)
    assert any(name.startswith("migrations/versions/0001") for name in wheel_files)
    assert {f"{package}/py.typed" for package in _PACKAGES - {"migrations"}} <= wheel_files


def test_the_wheel_brings_the_command_the_licence_and_the_entry_points(wheel_files: set[str]) -> None:
    names = {name.partition(".dist-info/")[2] for name in wheel_files if ".dist-info/" in name}
    assert {"METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE"} <= names
