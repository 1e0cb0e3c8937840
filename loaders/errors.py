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


class LoadCanceledError(LoaderError):
    """A load was asked to stop."""


class StorageError(LoaderError):
    """A disk or file system failed to read or write."""


class DiskFullError(StorageError):
    """There is not enough room for a checkpoint."""


class RemoteError(LoaderError):
    """A remote checkpoint cannot be read."""


class UrlError(RemoteError):
    """A URL cannot be read, or is of a kind that is not served; the message does not repeat it."""


class RemoteRefusedError(RemoteError):
    """Whoever serves a remote checkpoint does not let us have it."""


class RemoteChangedError(CheckpointCorruptError):
    """A remote file became another one while it was being read."""


class RemoteUnavailableError(RemoteError):
    """Whoever serves a remote checkpoint did not answer, or broke off, also after some tries; later it may work."""

    def __init__(self, message: str, *, wait_s: float = 0.0) -> None:
        """Keep how long the server asked us to wait, 0 if it did not."""
        super().__init__(message)
        self.wait_s = wait_s


class PoolError(LoaderError):
    """The node's pool of memory cannot do what was asked."""


class PoolSpaceError(PoolError):
    """There is not enough memory for the pool where it was to be."""

    def __init__(self, message: str, *, needed_bytes: int, free_bytes: int) -> None:
        """Keep the figures beside the message."""
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class PoolMismatchError(PoolError):
    """A pool or a content is there, but made by another version, or of another size."""


class PoolBusyError(PoolError):
    """Somebody uses what was to be freed, or holds the directory for too long."""


class PoolCorruptError(PoolError):
    """The pool's directory contradicts itself."""


class ContentMissingError(PoolError):
    """The pool holds no such content."""


class ContentDiscardedError(PoolError):
    """Whoever shares this content found its bytes wrong; close the lease, and lease the key anew."""
