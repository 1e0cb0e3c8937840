"""Do beforehand what loads do besides reading: imports, patterns that libraries compile, models to be filled in.

A load needs the interpreter for it while its readers do: OPT-1.3B was ready after 1.49 s, and after 1.32 when the first
two were done before (medians of 5 loads each; the ranges overlap).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from loaders.errors import LoaderError
from loaders.model_files import read_model_files
from loaders.restore import build
from loaders.source import Source, open_source
from loaders.templates import Template, Templates, template_key
from loaders.tensors import empty_tensors


class Rehearsal:
    """Makes templates of the checkpoints of a node; used by one thread."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates
        self._seen: set[Path] = set()
        # Of models that are no template, one of each kind is enough.
        self._kinds: set[str] = set()

    def look(self, paths: Iterable[Path]) -> bool:
        """Rehearse the first checkpoint that is unlike the ones before; what is wrong with it, its load will say.

        Each path is looked at once. Returns whether there was one, and there may be another.
        """
        for path in paths:
            if path not in self._seen and self._templates.has_room:
                self._seen.add(path)
                with suppress(LoaderError), open_source(path) as source:
                    if self._rehearse(source):
                        return True
        return False

    def _rehearse(self, source: Source) -> bool:
        key, files = template_key(source), read_model_files(source)
        if key is None or files is None or self._templates.find(key) or files.config.model_type in self._kinds:
            return False
        tensors = empty_tensors(source.plan.tensors)
        template = Template.of(build(files.config, tensors, files.dtype), tensors, files)
        if template is None:
            self._kinds.add(files.config.model_type)
        self._templates.keep(key, template)
        return True
