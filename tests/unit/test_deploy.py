"""What deploy/ starts exists, is closed to others, and has no secret of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from sllm_tasks.cli.main import sllm
from sllm_tasks.config import Settings, ram_bytes

_ROOT = Path(__file__).parents[2]
_DEPLOY = _ROOT / "deploy"
_UNITS = sorted((_DEPLOY / "systemd").glob("*.service"))
_COMPOSE: dict[str, Any] = yaml.safe_load((_DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
_PROCESSES = {name: each for name, each in _COMPOSE["services"].items() if each["image"] == "sllm-tasks"}
_BROKER_PROCESSES = ("web", "router", "control", "node", "worker")


def _assert_is_a_command(words: list[str]) -> None:
    context = click.Context(sllm)
    command = sllm.get_command(context, words[0])
    assert command is not None, words
    if isinstance(command, click.Group) and len(words) > 1:
        assert command.get_command(context, words[1]) is not None, words


def _assert_are_settings(variables: set[str]) -> None:
    known = {f"SLLM_{name.upper()}" for name in Settings.model_fields} | {"SLLM_HOME"}
    assert {variable.removesuffix("_FILE") for variable in variables} <= known


@pytest.mark.parametrize("name", _PROCESSES)
def test_a_service_runs_a_command_with_settings_that_exist_and_may_do_nothing_else(name: str) -> None:
    service = _PROCESSES[name]
    _assert_is_a_command(service["command"])
    _assert_are_settings(set(service["environment"]))
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", _BROKER_PROCESSES)
def test_a_service_comes_to_the_broker_as_its_own_user(name: str) -> None:
    assert _PROCESSES[name]["environment"]["SLLM_REDIS_URL_FILE"] == f"/run/secrets/redis_{name}"
    assert _COMPOSE["secrets"][f"redis_{name}"] == {"file": f"./secrets/broker/{name}.url"}


def test_secrets_are_files_that_are_declared_and_given_to_those_who_need_them() -> None:
    given = {secret for service in _COMPOSE["services"].values() for secret in service.get("secrets", ())}
    assert given == set(_COMPOSE["secrets"])
    for name, service in _COMPOSE["services"].items():
        values = [str(service.get("command", "")), *map(str, service.get("environment", {}).values())]
        read = set(re.findall(r"/run/secrets/(\w+)", " ".join(values)))
        assert read == set(service.get("secrets", ())), name
        for variable, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|SECRET|_URL", variable) or str(value).startswith("/run/secrets/"), variable


def test_volumes_and_dependencies_are_there() -> None:
    for service in _COMPOSE["services"].values():
        named = {volume.split(":")[0] for volume in service.get("volumes", ()) if volume[0] not in "./$"}
        assert named <= set(_COMPOSE["volumes"])
        assert set(service.get("depends_on", ())) <= set(_COMPOSE["services"])


def test_the_volume_of_the_pool_has_room_for_the_default_one_on_every_machine() -> None:
    options = _COMPOSE["volumes"]["pool"]["driver_opts"]["o"]
    (percent,) = re.findall(r"size=\$\{POOL_SIZE:-(\d+)%\}", options)
    assert int(percent) / 100 * ram_bytes() > Settings().pool_capacity_bytes


def test_the_image_holds_every_package() -> None:
    setup = ConfigParser()
    setup.read(_ROOT / "setup.cfg")
    packages = setup["options.packages.find"]["include"].replace("*", "").split()
    copied = re.findall(r"^COPY (\w+) \w+$", (_DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert sorted(copied) == sorted(packages)


@pytest.mark.parametrize("unit", _UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_command_as_a_user_without_rights_and_comes_to_the_broker_as_itself(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    (words,) = re.findall(r"^ExecStart=/opt/sllm/bin/sllm (.*)$", text, flags=re.MULTILINE)
    _assert_is_a_command(words.split())
    _assert_are_settings(set(re.findall(r"SLLM_\w+", text)) - {"SLLM_GRACE_S"})
    assert f"SLLM_REDIS_URL_FILE=/etc/sllm/broker/{words.split()[0]}.url\n" in text
    assert {"User=sllm", "NoNewPrivileges=yes", "ProtectSystem=strict"} <= set(text.splitlines())


def test_systemd_takes_the_units_where_it_is_installed(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    for unit in (_DEPLOY / "systemd").iterdir():
        text = unit.read_text(encoding="utf-8").replace("/opt/sllm/bin/sllm", sys.executable)
        # Neither the user nor the program is on this machine.
        text = re.sub(r"^(User|Group)=.*\n", "", text, flags=re.MULTILINE)
        (tmp_path / unit.name.replace("@.", "@0.")).write_text(text)
    if analyze is not None:
        command = [analyze, "verify", "--man=no", *map(str, tmp_path.iterdir())]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
