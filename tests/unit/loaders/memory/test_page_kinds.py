"""What a folder gives a pool, and what would be better."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loaders.memory.mapping import Mapping
from loaders.memory.pages import PageKind, huge_bytes_at, hugetlb_folder, page_report, shared_page_kind
from loaders.memory.pool import Pool
from loaders.memory.syscalls import HUGE_PAGE_BYTES


def test_a_better_kind_of_pages_is_explained(tmp_path: Path, folder: Path) -> None:
    folder.mkdir()
    for place in (tmp_path, folder):
        report = page_report(place, 1 << 40)
        assert report.kind is shared_page_kind(place)
        assert report.advice is not None
        assert re.search("hugepages=524288", report.advice)
        assert (report.kind is PageKind.DISK) == ("put the pool on tmpfs" in report.advice)


def test_the_kind_that_a_pool_reports_is_the_kind_of_its_pages(folder: Path) -> None:
    with Pool.open(folder, 2 * HUGE_PAGE_BYTES, HUGE_PAGE_BYTES) as pool:
        pool.prepare()
        huge = huge_bytes_at(pool.address)
        if pool.page_kind in {PageKind.HUGETLB, PageKind.HUGE_SHMEM}:
            assert huge == pool.capacity_bytes
        else:
            assert huge == 0


def test_no_hugetlbfs_has_room_for_everything() -> None:
    assert hugetlb_folder(1 << 60) is None


def test_anonymous_memory_is_in_huge_pages_where_the_kernel_has_them() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this kernel gives no huge pages")
    with Mapping.anonymous(2 * HUGE_PAGE_BYTES) as mapping:
        mapping.populate(0, mapping.num_bytes)
        assert huge_bytes_at(mapping.address) == mapping.num_bytes
