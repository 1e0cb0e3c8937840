"""What `sllm doctor` looks at on this machine: settings, ledger, disk, memory, limits, processors."""

from __future__ import annotations

import os
import resource
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sllm_tasks import accelerators
from sllm_tasks.cli.findings import Finding, Health, judged
from sllm_tasks.config import Settings
from sllm_tasks.errors import SllmError
from sllm_tasks.ledger import schema

_MIN_FREE_BYTES: Final = 2 * 2**30
#: Descriptors of a web process besides two for each of its threads.
_OTHER_FILES: Final = 200


def look_at_ledger(settings: Settings) -> Iterator[Finding]:
    """Look whether the ledger answers, and is at the revision of this code."""
    try:
        revision, expected = schema.current(settings.ledger_url), schema.head()
    except SllmError as error:
        yield Finding("ledger", Health.ERROR, str(error), "check SLLM_DATABASE_URL")
        return
    detail, is_well = f"revision {revision}, expected {expected}", revision == expected
    yield judged("ledger schema", detail, is_well=is_well, otherwise=Health.ERROR, remedy="sllm db upgrade")


def look_at_secrets(settings: Settings) -> Iterator[Finding]:
    """Look whether machines share a secret, and the web process has a certificate that fits its key."""
    is_shared = settings.secret is not None or settings.redis_url is None
    remedy = "set SLLM_SECRET_FILE to the same file on every machine"
    detail = "given" if settings.secret else "of this state folder"
    yield judged("secret", detail, is_well=is_shared, otherwise=Health.WARNING, remedy=remedy)
    if settings.tls_certificate is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                settings.tls_certificate, settings.tls_key
            )
        except OSError as error:
            yield Finding("certificate", Health.ERROR, str(error), "check SLLM_TLS_CERTIFICATE and SLLM_TLS_KEY")
        else:
            yield Finding("certificate", Health.OK, "fits its key")


def look_at_storage(settings: Settings) -> Iterator[Finding]:
    """Look at the disk of the state folder, and at the memory that the pool is made of."""
    folder = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    detail, is_well = f"{free / 2**30:.1f} GiB free in {folder}", free >= _MIN_FREE_BYTES
    yield judged("disk", detail, is_well=is_well, otherwise=Health.WARNING, remedy="make room")
    is_direct = _takes_direct_io(folder)
    detail = "past the page cache" if is_direct else "direct I/O is refused"
    remedy = "put the state folder on ext4 or xfs: loads are slower through the page cache"
    yield judged("disk reads", detail, is_well=is_direct, otherwise=Health.WARNING, remedy=remedy)
    if settings.pool_capacity_bytes and settings.pool_home.exists():
        total, wanted = shutil.disk_usage(settings.pool_home).total, settings.pool_capacity_bytes
        detail = f"{total / 2**30:.1f} GiB in {settings.pool_home}, the pool takes {wanted / 2**30:.1f}"
        remedy = f"enlarge {settings.pool_home}, or lower SLLM_POOL_BYTES"
        yield judged("shared memory", detail, is_well=total >= wanted, otherwise=Health.ERROR, remedy=remedy)


def _takes_direct_io(folder: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def look_at_limits(settings: Settings) -> Iterator[Finding]:
    """Look whether a web process may open what its threads need."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * settings.web_threads + _OTHER_FILES
    is_well = limit == resource.RLIM_INFINITY or limit >= wanted
    remedy = f"ulimit -n {wanted}, or lower SLLM_WEB_THREADS"
    yield judged("open files", f"{limit} at most", is_well=is_well, otherwise=Health.WARNING, remedy=remedy)


def look_at_processors(settings: Settings) -> Iterator[Finding]:
    """Look at cpus and gpus."""
    num_cpus = len(os.sched_getaffinity(0))
    threads = settings.torch_threads
    detail, is_well = f"{num_cpus} cpus, torch threads {threads or 'not set'}", (threads or 1) <= num_cpus
    yield judged("threads", detail, is_well=is_well, otherwise=Health.WARNING, remedy="lower SLLM_TORCH_THREADS")
    num_gpus = accelerators.num_present()
    if not num_gpus:
        yield Finding("gpu", Health.OK, "none: models run on the CPU")
    elif not accelerators.torch_has_cuda():
        detail = f"{num_gpus} NVIDIA, and a torch that was built without CUDA: models run on the CPU"
        yield Finding("gpu", Health.WARNING, detail, "install a build of torch with CUDA")
    else:
        yield Finding("gpu", Health.OK, f"{num_gpus} NVIDIA, {accelerators.num_usable()} for sllm")
