"""Do beforehand what loads do besides reading: imports, patterns that libraries compile, models to be filled in.

A load needs the interpreter for it while its readers do: OPT-1.3B was ready after 1.49 s, and after 1.32 when the first
two were done before (medians of 5 loads each; the ranges overlap).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from loaders.errors import LoaderError
from loaders.source import open_source
from loaders.templates import Template, Templates


def _keep(template: Template) -> None:
    """Templates are kept in any case."""


class Rehearsal:
    """Makes templates of the checkpoints of a node; used by one thread."""

    def __init__(self, templates: Templates, use: Callable[[Template], None] = _keep) -> None:
        """`use` gets each new template; whoever wants nothing of it but that it is kept leaves it out."""
        self._templates = templates
        self._use = use
        self._seen: set[Path] = set()

    def look(self, paths: Iterable[Path]) -> bool:
        """Rehearse the first checkpoint that is unlike the ones before; what is wrong with it, its load will say.

        Each path is looked at once. Returns whether there was one, and there may be another.
        """
        for path in paths:
            if path not in self._seen and self._templates.has_room:
                self._seen.add(path)
                with suppress(LoaderError), open_source(path) as source:
                    if not self._templates.has(source):
                        template = self._templates.find(source)
                        if template is not None:
                            self._use(template)
                        return True
        return False
