"""Fields of the API in messages, by the names that they have on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

#: Where a refusal begins, several of them parted by `; `: `/params/max_tokens: ` of a body, `?limit: ` of a query,
#: `name: ` of a path.
_FIELD = re.compile(r"(?:(?<=\A)|(?<=; ))(?P<field>(?:/[^/:\s]+)+|\?[^/:\s]+|[a-z_]+)(?=: )")
#: A refusal of several fields together, which it names itself.
_TOGETHER = "/: "
#: What a prompt has become in a body: text, or a message with a content.
_PROMPT = re.compile(r"/input\b")


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
    if message.startswith(_TOGETHER):
        return re.sub(r"\b[a-z_]+_[a-z_]+\b", lambda found: _typed(found[0], command), message.removeprefix(_TOGETHER))
    return _FIELD.sub(lambda found: _typed(found["field"], command), message)


def _typed(field: str, command: click.Command) -> str:
    names = [part for part in re.split(r"[/?]", field) if part and not part.isdigit()]
    name = "prompt" if _PROMPT.match(field) else names[-1] if names else field
    # An id is asked for by what it is of.
    wanted = {name, name.removesuffix("_id")}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            option = max(parameter.opts, key=len)
            if parameter.name in wanted or option == "--" + name.replace("_", "-"):
                return option
        elif parameter.name in wanted or (parameter.metavar or "").lower() in wanted:
            return parameter.metavar or (parameter.name or "").upper()
    return field
