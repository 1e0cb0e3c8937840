"""What the documents name exists: files behind links, commands of the README, settings, scripts."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from scripts import reference_pages
from sllm_tasks.cli.main import sllm
from sllm_tasks.config import Settings
from sllm_tasks.errors import ErrorCode

_ROOT = Path(__file__).parents[2]
_DOCUMENTS = [_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
_DOCUMENTS += sorted((_ROOT / "docs").rglob("*.md"))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _text(document)):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), target
        headings = re.findall(r"^#+ (.+)$", _text(path), flags=re.MULTILINE) if anchor else []
        assert not anchor or anchor in map(_anchor, headings), target


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_scripts_commands_and_variables_that_are_named_exist(document: Path) -> None:
    text = _text(document)
    for script in re.findall(r"`?(scripts/[a-z_]+|tests/[a-z_/.]+[a-z])", text):
        assert (_ROOT / script).exists(), script
    for command in re.findall(r"`sllm ([a-z]+)", text) + re.findall(r"\.venv/bin/sllm ([a-z]+)", text):
        assert command in sllm.list_commands(click.Context(sllm)), command
    others = {"SLLM_URL", "SLLM_API_KEY", "SLLM_CONFIG", "SLLM_FAILPOINTS", "SLLM_TIMELINE"}
    known = others | {f"SLLM_{name.upper()}" for name in Settings.model_fields}
    assert {name.removesuffix("_FILE") for name in re.findall(r"SLLM_[A-Z_]+[A-Z]", text)} <= known


def test_the_page_of_settings_lists_them_with_defaults_and_meanings() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", _text(_ROOT / "docs" / "settings.md"), flags=re.MULTILINE)
    assert [(name, meaning) for name, _, meaning in rows] == [
        (name, field.description) for name, field in Settings.model_fields.items()
    ]
    for name, shown, _ in rows:
        default = Settings.model_fields[name].default
        if default is not None and not callable(Settings.model_fields[name].default_factory):
            assert shown.strip("`") == str(default).lower() or shown.strip("`") == str(default), name


def test_every_command_says_what_it_does_and_every_error_code_what_it_means() -> None:
    assert [context.command_path for context in reference_pages.commands() if not context.command.help] == []
    assert set(reference_pages.meanings()) == set(ErrorCode)
    assert "`sllm job watch`" in reference_pages.command_line()
    assert "| `quota_exceeded` |" in reference_pages.error_codes()
