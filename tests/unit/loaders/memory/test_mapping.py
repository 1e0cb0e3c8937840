"""Memory at the edge of the operating system."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loaders.memory.mapping import Mapping
from loaders.memory.syscalls import HUGE_PAGE_BYTES, PAGE_BYTES


def _is_mapped(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < stop:
            return True
    return False


def test_memory_begins_on_the_border_of_a_huge_page() -> None:
    for num_bytes in (1, PAGE_BYTES, 3 * HUGE_PAGE_BYTES + 5):
        with Mapping.anonymous(num_bytes) as mapping:
            assert mapping.address % HUGE_PAGE_BYTES == 0
            assert len(mapping.view) == mapping.num_bytes == num_bytes
            mapping.view[num_bytes - 1] = 7


def test_memory_is_unmapped_when_it_is_closed_and_nothing_views_it() -> None:
    mapping = Mapping.anonymous(PAGE_BYTES)
    assert _is_mapped(mapping.address)
    mapping.close()
    mapping.close()
    assert not _is_mapped(mapping.address)
    with pytest.raises(ValueError, match="closed"):
        _ = mapping.view


@pytest.mark.parametrize("make", [memoryview, lambda view: view[5:9], lambda view: np.frombuffer(view, np.uint8)[5:9]])
def test_a_view_of_any_kind_outlives_close(make: Callable[[memoryview], memoryview]) -> None:
    mapping = Mapping.anonymous(2 * PAGE_BYTES)
    address = mapping.address
    view = make(mapping.view)
    mapping.view[6] = 42
    mapping.close()
    del mapping
    gc.collect()
    assert _is_mapped(address)
    assert 42 in bytes(view)
    del view
    gc.collect()
    assert not _is_mapped(address)


def test_what_one_mapping_of_a_file_writes_the_other_reads() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(2 * PAGE_BYTES)
        with (
            Mapping.shared(file.fileno(), 2 * PAGE_BYTES) as first,
            Mapping.shared(file.fileno(), 2 * PAGE_BYTES) as second,
        ):
            first.view[PAGE_BYTES] = 9
            assert second.view[PAGE_BYTES] == 9


def test_chunks_of_a_file_lie_side_by_side_in_the_order_asked_for() -> None:
    chunk = 2 * PAGE_BYTES
    with tempfile.TemporaryFile() as file:
        for number in range(6):
            file.write(bytes([number]) * chunk)
        file.flush()
        order = [4, 5, 0, 3, 1]
        with Mapping.assemble(file.fileno(), [number * chunk for number in order], chunk) as mapping:
            assert bytes(mapping.view) == b"".join(bytes([number]) * chunk for number in order)
            mapping.view[0] = 99
        assert os.pread(file.fileno(), 1, 4 * chunk) == b"\x63"


def test_a_range_that_cannot_be_mapped_leaves_nothing_behind() -> None:
    def num_ranges() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    with tempfile.TemporaryFile() as file:
        file.truncate(4 * PAGE_BYTES)
        before = num_ranges()
        for _ in range(20):
            with pytest.raises(OSError, match="mmap"):
                Mapping.assemble(file.fileno(), [0, 3 * PAGE_BYTES, PAGE_BYTES + 1], PAGE_BYTES)
        assert num_ranges() <= before + 2


def test_populating_makes_pages_and_keeps_what_is_in_them() -> None:
    num_bytes = 2 * HUGE_PAGE_BYTES + PAGE_BYTES
    with tempfile.TemporaryFile() as file:
        file.truncate(num_bytes)
        with Mapping.shared(file.fileno(), num_bytes) as mapping:
            mapping.view[HUGE_PAGE_BYTES + 5] = 3
            for _ in range(2):
                mapping.populate(PAGE_BYTES, num_bytes)
            assert mapping.view[HUGE_PAGE_BYTES + 5] == 3
            assert not any(mapping.view[HUGE_PAGE_BYTES + 6 :])


def test_no_memory_of_no_bytes() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        Mapping.anonymous(0)


def test_what_is_written_to_a_copy_on_write_mapping_is_seen_nowhere_else() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(3 * PAGE_BYTES)
        offsets = [2 * PAGE_BYTES, 0]
        with (
            Mapping.shared(file.fileno(), 3 * PAGE_BYTES) as original,
            Mapping.assemble(file.fileno(), offsets, PAGE_BYTES, copy_on_write=True) as copy,
        ):
            original.view[2 * PAGE_BYTES] = 5
            copy.fill_page_tables(0, 2 * PAGE_BYTES)
            assert copy.view[0] == 5
            copy.view[PAGE_BYTES] = 6
            assert original.view[0] == 0


def test_whoever_asks_hears_when_the_last_view_has_died() -> None:
    heard: list[bool] = []
    mapping = Mapping.anonymous(PAGE_BYTES)
    mapping.on_unmap(lambda: heard.append(True))
    view = mapping.view[:5]
    mapping.close()
    assert heard == []
    del view
    assert heard == [True]
    with pytest.raises(ValueError, match="closed"):
        mapping.on_unmap(heard.clear)


def test_who_hears_of_the_end_still_finds_the_memory_mapped_and_the_last_to_ask_hears_first() -> None:
    heard: list[tuple[str, bool]] = []
    with Mapping.anonymous(PAGE_BYTES) as mapping:
        address = mapping.address
        mapping.on_unmap(lambda: heard.append(("first", _is_mapped(address))))
        mapping.on_unmap(lambda: heard.append(("second", _is_mapped(address))))
    assert heard == [("second", True), ("first", True)]
    assert not _is_mapped(address)


def test_a_file_without_bytes_takes_no_place_among_others(tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    (tmp_path / "some").write_bytes(b"some")
    with (tmp_path / "none").open("rb") as none, (tmp_path / "some").open("rb") as some:
        files = [(some.fileno(), 4), (none.fileno(), 0), (some.fileno(), 4)]
        with Mapping.of_files(files, PAGE_BYTES) as mapping:
            assert bytes(mapping.view[:4]) == bytes(mapping.view[PAGE_BYTES : PAGE_BYTES + 4]) == b"some"
