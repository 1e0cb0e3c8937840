"""What the page cache holds is found out without reading what it does not hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loaders.reading.page_cache import is_cached


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file of 8 MiB that the page cache holds."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(os.urandom(8 << 20))
        os.fsync(file.fileno())
    return path


def _says_cached(path: Path) -> bool:
    with path.open("rb") as file:
        return is_cached(file.fileno())


def _drop(path: Path, begin: int, num_bytes: int) -> None:
    """Drop a range from the page cache, or skip the test where the file is in memory for good."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), begin, num_bytes, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], begin + num_bytes // 2, os.RWF_NOWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            pytest.skip(f"no such reads here: {error.strerror}")
    pytest.skip("nothing leaves the page cache of this file system")


def test_a_file_that_was_just_written_is_cached(written: Path) -> None:
    assert _says_cached(written)


def test_an_empty_file_is_cached(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert _says_cached(tmp_path / "empty")


def test_a_file_that_was_dropped_is_not_cached(written: Path) -> None:
    _drop(written, 0, 8 << 20)
    assert not _says_cached(written)


def test_a_file_half_of_which_was_dropped_is_not_cached(written: Path) -> None:
    _drop(written, 4 << 20, 4 << 20)
    assert not _says_cached(written)
