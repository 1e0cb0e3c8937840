"""The error tree of the package: what can be wrong with a checkpoint. Each message names the file or tensor."""

from __future__ import annotations


class LoaderError(Exception):
    """A checkpoint cannot be used."""


class CheckpointMissingError(LoaderError):
    """A directory, a file or a tensor that must be there is not."""


class TokenizerMissingError(LoaderError):
    """There is no fast tokenizer, or it cannot be read."""


class CheckpointCorruptError(LoaderError):
    """A file is not what it claims to be: truncated, malformed or contradicting another one."""


class CheckpointUnsupportedError(LoaderError):
    """The checkpoint is sound, but of a kind that is not handled here."""


class CheckpointExistsError(LoaderError):
    """The destination holds something else, which is never overwritten."""


class ConversionBusyError(LoaderError):
    """Another process is writing to the same destination."""


class ConversionCanceledError(LoaderError):
    """A conversion was asked to stop; started again, it goes on from where it was."""


class StorageError(LoaderError):
    """A disk or file system failed to read or write."""


class DiskFullError(StorageError):
    """There is not enough room for a checkpoint."""
