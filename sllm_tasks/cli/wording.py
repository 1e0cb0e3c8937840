"""Fields of the API in messages, by the names that they have on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

#: `/params/max_tokens: ` or `?limit: ` where a refusal begins; several of them are parted by `; `.
_FIELD = re.compile(r"(?:(?<=\A)|(?<=; ))(?P<field>(?:/[^/:\s]+)+|\?[^/:\s]+)(?=: )")


def command_of(group: click.Group, arguments: Sequence[str]) -> click.Command:
    """The command that arguments call: of a group within a group the innermost."""
    found: click.Command = group
    for argument in arguments:
        if not isinstance(found, click.Group):
            break
        inner = found.get_command(click.Context(found), argument)
        found = found if inner is None else inner
    return found


def as_typed(message: str, command: click.Command) -> str:
    """A refusal in the words of a command: `--max-tokens: ...`; a field that it has no word for stays as it is."""
    return _FIELD.sub(lambda found: _word_for(found["field"], command) or found["field"], message)


def _word_for(field: str, command: click.Command) -> str | None:
    names = [part for part in re.split(r"[/?]", field) if part and not part.isdigit()]
    name = names[-1] if names else ""
    for parameter in command.params:
        option = "--" + name.replace("_", "-")
        if option in parameter.opts:
            return option
        if parameter.name == name:
            is_option = isinstance(parameter, click.Option)
            return max(parameter.opts, key=len) if is_option else parameter.metavar or name.upper()
    return None
