"""Pages of the documentation that are made from the code: the command line and the error codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import getsource
from pathlib import Path

import click

from sllm_tasks.cli.main import sllm
from sllm_tasks.errors import ErrorCode
from webapp.problems import STATUS_OF_ERROR


def command_line() -> str:
    """The page of all commands: what `--help` prints."""
    lines = ["# Command line", "", "Exit statuses: 0 ok, 1 failure, 2 usage, 3 not found, 4 not allowed, 5 timeout,"]
    lines += ["6 unavailable, 130 interrupted. `-o json` prints JSON that stays as it is.", ""]
    for context in commands():
        lines += [f"{'#' * (1 + context.command_path.count(' '))} `{context.command_path}`", "", "```text"]
        lines += [context.get_help(), "```", ""]
    return "\n".join(lines)


def error_codes() -> str:
    """The page of all error codes, with the statuses of answers that carry them."""
    lines = ["# Error codes", "", "Problem documents, jobs and the command line name them alike (`code`).", ""]
    lines += ["| code | means | status |", "|---|---|---|"]
    for code, meaning in meanings().items():
        statuses = sorted({status for error, status in STATUS_OF_ERROR.items() if getattr(error, "code", None) == code})
        lines.append(f"| `{code}` | {meaning} | {', '.join(str(status.value) for status in statuses)} |")
    return "\n".join([*lines, ""])


def meanings() -> dict[ErrorCode, str]:
    """What each code means, as its comment says."""
    found = dict(re.findall(r"#: (.+)\n    ([A-Z_]+) = ", getsource(ErrorCode)))
    return {ErrorCode[name]: meaning for meaning, name in found.items()}


def commands() -> Iterator[click.Context]:
    """Every command, groups before what is in them."""
    return _below(click.Context(sllm, info_name="sllm", max_content_width=100))


def _below(context: click.Context) -> Iterator[click.Context]:
    if context.parent is not None:
        yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None:
                yield from _below(click.Context(command, info_name=name, parent=context))


def main() -> None:
    """Write the pages into build/site/source/reference."""
    folder = Path("build/site/source/reference")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cli.md").write_text(command_line(), encoding="utf-8")
    (folder / "errors.md").write_text(error_codes(), encoding="utf-8")


if __name__ == "__main__":
    main()
