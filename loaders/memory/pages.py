"""Which kind of pages a pool's memory gets in a folder, found out by trying, and how to get a better one."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loaders.memory.mapping import Mapping
from loaders.memory.syscalls import HUGE_PAGE_BYTES

_SHMEM_SETTING = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
_RESERVED = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


class PageKind(StrEnum):
    """Pages of the pool, best first; disks and gpus move more bytes per second into larger ones."""

    #: Reserved by the administrator: never scattered, never split.
    HUGETLB = "hugetlb"
    #: Pages of 2 MiB that the kernel put together on tmpfs.
    HUGE_SHMEM = "huge_shmem"
    #: Pages of 4 KiB on tmpfs.
    SMALL = "small"
    #: A file system on a disk, which also writes what changes to that disk.
    DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageReport:
    """What a folder gives."""

    kind: PageKind
    #: For the administrator: how to get a better kind; None at the best one.
    advice: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    """A mounted file system."""

    folder: Path
    kind: str


def page_report(folder: Path, capacity_bytes: int) -> PageReport:
    """Find out what a pool of that size in a folder would get; the folder exists. Raises OSError."""
    if hugetlb_folder(capacity_bytes) is not None:
        return PageReport(kind=PageKind.HUGETLB, advice=None)
    kind = shared_page_kind(folder)
    num_pages = -(-capacity_bytes // HUGE_PAGE_BYTES)
    reserve = (
        f"for the best, reserve huge pages at boot (kernel parameter hugepages={num_pages}) and mount hugetlbfs "
        f"where this user can write"
    )
    if kind is PageKind.DISK:
        return PageReport(
            kind=kind, advice=f"{folder} is on a disk; put the pool on tmpfs, such as /dev/shm; {reserve}"
        )
    if kind is PageKind.SMALL:
        allow = f"echo advise > {_SHMEM_SETTING}, or Linux 6.1 or newer with free memory in one piece"
        return PageReport(kind=kind, advice=f"huge pages on tmpfs need: {allow}; {reserve}")
    return PageReport(kind=kind, advice=reserve)


def shared_page_kind(folder: Path) -> PageKind:
    """Put one huge page's worth of memory into a folder and look what it became. Raises OSError."""
    if _mount_of(folder).kind not in {"tmpfs", "ramfs"}:
        return PageKind.DISK
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(HUGE_PAGE_BYTES)
        with Mapping.shared(file.fileno(), HUGE_PAGE_BYTES) as mapping:
            mapping.populate(0, HUGE_PAGE_BYTES)
            return PageKind.HUGE_SHMEM if huge_bytes_at(mapping.address) else PageKind.SMALL


def hugetlb_folder(num_bytes: int) -> Path | None:
    """Find a hugetlbfs with pages of 2 MiB where that many bytes are free."""
    num_pages = -(-num_bytes // HUGE_PAGE_BYTES)
    for folder in hugetlb_mounts():
        room = os.statvfs(folder)
        # Without a limit of its own a mount says that it has no blocks at all.
        limit = room.f_bavail if room.f_blocks else num_pages
        if room.f_bsize == HUGE_PAGE_BYTES and limit >= num_pages <= _free_reserved_pages():
            return folder
    return None


def hugetlb_mounts() -> list[Path]:
    """Every hugetlbfs where this user may write."""
    return [mount.folder for mount in _mounts() if mount.kind == "hugetlbfs" and os.access(mount.folder, os.W_OK)]


def huge_bytes_at(address: int) -> int:
    """Bytes in huge pages of the mapping that begins at an address; 0 if none begins there."""
    here = False
    num_bytes = 0
    with Path("/proc/self/smaps").open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, rest = line.partition(" ")
            if not name.endswith(":"):
                here = int(name.partition("-")[0], 16) == address
            elif here and name in {
                "AnonHugePages:",
                "ShmemPmdMapped:",
                "FilePmdMapped:",
                "Shared_Hugetlb:",
                "Private_Hugetlb:",
            }:
                num_bytes += int(rest.split()[0]) * 1024
    return num_bytes


def _free_reserved_pages() -> int:
    """Huge pages that the administrator has reserved and nobody has claimed."""
    free, claimed = (int((_RESERVED / name).read_text()) for name in ("free_hugepages", "resv_hugepages"))
    return free - claimed


def _mount_of(folder: Path) -> _Mount:
    """The file system that holds a folder; of several mounted on one place the last is the visible one."""
    place = folder.resolve()
    return max(
        (mount for mount in _mounts() if place.is_relative_to(mount.folder)),
        key=lambda mount: len(mount.folder.parts),
    )


def _mounts() -> list[_Mount]:
    """All mounts, the latest first. See proc_pid_mountinfo(5)."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split(" ")[0]
        folder = before.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        mounts.append(_Mount(folder=Path(folder), kind=kind))
    return mounts[::-1]
