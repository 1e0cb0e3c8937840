"""Errors of this package on a command line: a line that says what is wrong, one that says what to try, a status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from loaders.errors import (
    CheckpointCorruptError,
    CheckpointExistsError,
    CheckpointMissingError,
    CheckpointUnsupportedError,
    ConversionCanceledError,
    DiskFullError,
    LoadCanceledError,
    LoaderError,
    PoolSpaceError,
    RemoteRefusedError,
    RemoteUnavailableError,
    UrlError,
)

#: Kind of error, exit status, code, and what to try. The first that fits is taken.
_FAILURES: tuple[tuple[type[LoaderError], int, str, str], ...] = (
    (UrlError, 2, "invalid_request", "a path, or a URL that begins with file://, http://, https:// or s3://"),
    (CheckpointMissingError, 3, "not_found", "check the path or URL"),
    (RemoteRefusedError, 4, "forbidden", "user:password@ in the URL, or the credentials that S3 tools read"),
    (RemoteUnavailableError, 6, "unavailable", "the same command again; it goes on from here"),
    (ConversionCanceledError, 130, "canceled_by_user", "the same command again; it goes on from here"),
    (LoadCanceledError, 130, "canceled_by_user", "the same command again; it goes on from here"),
    (CheckpointExistsError, 1, "conflict", "another destination"),
    (CheckpointCorruptError, 1, "checkpoint_corrupt", "fetch or convert it anew"),
    (CheckpointUnsupportedError, 1, "checkpoint_unsupported", "another checkpoint or other options"),
    (DiskFullError, 1, "disk_full", "make room; the same command goes on from here"),
    (PoolSpaceError, 1, "out_of_memory", "a smaller checkpoint, or a machine with more memory"),
    (LoaderError, 1, "internal", "the same command again"),
)


class CommandError(click.ClickException):
    """A LoaderError on its way to the command line."""

    def __init__(self, error: LoaderError) -> None:
        super().__init__(str(error))
        failure = next(failure for failure in _FAILURES if isinstance(error, failure[0]))
        # The base class has one for all errors, and reads it through the object.
        self.exit_code = failure[1]  # type: ignore[misc]
        self.code, self.remedy = failure[2:]

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it as all commands do."""
        for line in (f"error: {self.message}", f"  code: {self.code}", f"  try: {self.remedy}"):
            click.echo(line, err=file is None, file=file)


@contextmanager
def reported() -> Iterator[None]:
    """Turn errors of this package into those of the command line."""
    try:
        yield
    except LoaderError as error:
        raise CommandError(error) from error
