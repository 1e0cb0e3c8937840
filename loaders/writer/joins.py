"""Which tensors are to lie side by side: those that the class of a model would join with every load."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from loaders.errors import LoaderError

#: A list inside of a layer, as of experts: nothing else is known to be joined, and most models need not be looked at.
_INNER_LIST = re.compile(r"\.\d+\.(?:.*\.)?\d+\.")


def joined_tensors(path: Path, names: Iterable[str]) -> Sequence[tuple[str, ...]]:
    """Find the tensors that the model in a directory joins, each time in the order of their bytes.

    Nothing where there is no model, or transformers cannot build it: that is found out elsewhere, and named.
    """
    if not path.is_dir() or not any(_INNER_LIST.search(name) for name in names):
        return ()
    # Models of transformers take seconds to import, and are of use here alone.
    from loaders.source import open_source  # noqa: PLC0415
    from loaders.templates import make_template  # noqa: PLC0415

    with ExitStack() as resources:
        try:
            template = make_template(resources.enter_context(open_source(path)))
        except LoaderError:
            return ()
    return () if template is None else template.joined
