"""Bring a checkpoint from anywhere into our own format: `import_checkpoint(url_or_path, destination)`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loaders.errors import CheckpointUnsupportedError, RemoteChangedError
from loaders.format.geometry import TENSOR_INDEX
from loaders.format.manifest import Manifest
from loaders.reading.pipeline import Cancel
from loaders.remote.download import DownloadReport, download
from loaders.remote.source import open_remote
from loaders.remote.url import is_url, parse_url
from loaders.writer.convert import convert
from loaders.writer.receive import LocalSupplier, receive


class Stage(StrEnum):
    """What an import is doing."""

    DOWNLOAD = "download"
    CONVERT = "convert"
    #: It is in our format already.
    COPY = "copy"


#: Gets the stage, bytes done and bytes in all; from several threads, but one at a time.
OnProgress = Callable[[Stage, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """How a checkpoint is converted, if it has to be; the defaults are those of `convert`."""

    num_partitions: int = 1
    pack: bool = False
    num_threads: int = 4

    def refuse_if_asked_for(self) -> None:
        """Raise CheckpointUnsupportedError if anything is wanted of a checkpoint that stays as it is."""
        if self.pack or self.num_partitions != 1:
            raise CheckpointUnsupportedError(
                "the source is converted already; its partitions and its layout stay as they are"
            )


def import_checkpoint(
    source: str,
    destination: Path,
    *,
    conversion: Conversion | None = None,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> Manifest:
    """Make a checkpoint of our format from a URL or a path, in either form; it appears complete or not at all.

    What is in our format is taken over as it is, chunk by chunk against its digests. Anything else is converted; what a
    URL brings is kept beside the destination until then. The same call goes on after a failure.

    Raises what `download`, `convert` and `receive` raise; CheckpointUnsupportedError when partitions or packing are
    asked for and the checkpoint is in our format already.
    """
    run = _Import(
        Path(os.path.abspath(destination)),  # noqa: PTH100 - links in it are the caller's business
        conversion or Conversion(),
        on_progress,
        cancel,
    )
    return run.from_url(source) if is_url(source) else run.from_path(Path(source))


class _Import:
    def __init__(
        self, destination: Path, conversion: Conversion, on_progress: OnProgress | None, cancel: Cancel | None
    ) -> None:
        self._destination = destination
        self._conversion = conversion
        self._on_progress = on_progress
        self._cancel = cancel

    def from_path(self, path: Path) -> Manifest:
        """Copy or convert a directory of this machine."""
        if not (path / TENSOR_INDEX).is_file():
            return self._convert(path, origin=None)
        self._conversion.refuse_if_asked_for()
        with LocalSupplier(path) as supplier:
            return receive(
                supplier,
                self._destination,
                num_threads=self._conversion.num_threads,
                on_progress=self._telling(Stage.COPY),
                cancel=self._cancel,
            )

    def from_url(self, text: str) -> Manifest:
        """Download, and convert what is not in our format."""
        url = parse_url(text)
        with open_remote(url) as remote:
            manifest, key = remote.manifest, remote.source.plan.key if remote.has_versions else ""
        if manifest is not None:
            self._conversion.refuse_if_asked_for()
            # Of what came in the end: it may have been replaced since, also while it was fetched.
            if (found := self._download(text, self._destination).manifest) is None:
                raise RemoteChangedError(f"{url}: was in our format, and is not any more; import it again")
            return found
        # Named by its content, so that what an import of something else has left is never taken for it; where that has
        # no name, nothing that was left is.
        staged = self._destination.with_name(f".{self._destination.name}.source-{key[:16]}")
        if not key:
            shutil.rmtree(staged, ignore_errors=True)
        if not staged.exists():
            self._download(text, staged)
        manifest = self._convert(staged, origin=str(url))
        shutil.rmtree(staged, ignore_errors=True)
        return manifest

    def _download(self, url: str, destination: Path) -> DownloadReport:
        return download(url, destination, on_progress=self._telling(Stage.DOWNLOAD), cancel=self._cancel)

    def _convert(self, path: Path, origin: str | None) -> Manifest:
        return convert(
            path,
            self._destination,
            num_partitions=self._conversion.num_partitions,
            pack=self._conversion.pack,
            num_threads=self._conversion.num_threads,
            origin=origin,
            on_progress=self._telling(Stage.CONVERT),
            cancel=self._cancel,
        )

    def _telling(self, stage: Stage) -> Callable[[int, int], None] | None:
        on_progress = self._on_progress
        return None if on_progress is None else lambda done, total: on_progress(stage, done, total)
