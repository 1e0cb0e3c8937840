"""A job as its readers see it: the ledger's row, and the live record on top of it while the job is active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sllm_tasks.errors import NotFoundError, UnavailableError
from sllm_tasks.jobs import JobPhase, JobStatus
from sllm_tasks.ledger.jobs import get_job, get_job_by_client_id
from sllm_tasks.ledger.tables import JobRow
from sllm_tasks.livestate.jobs import LiveJob
from webapp.errors import GoneError
from webapp.services import WebServices


@dataclass(frozen=True, slots=True)
class JobView:
    """One job; `live` is None when it has ended or the live state cannot tell."""

    row: JobRow
    live: LiveJob | None

    @property
    def status(self) -> JobStatus:
        """What the ledger says once the job has ended, and the live state before."""
        return self.live.status if self.live is not None else self.row.status

    @property
    def status_reason(self) -> str | None:
        """Why the job waits; None if it does not, or if nobody can tell."""
        return (self.live.wait_reason or None) if self.live is not None else None

    @property
    def loading(self) -> dict[str, object] | None:
        """How far the load is that the job waits for; None if it waits for none, or if nobody can tell."""
        live = self.live
        return live.load if live is not None and live.phase is JobPhase.LOADING else None

    @property
    def num_tokens(self) -> int:
        """Tokens that exist so far."""
        return self.live.num_tokens if self.live is not None else self.row.completion_tokens or 0

    @property
    def etag(self) -> str:
        """Changes whenever the JSON does."""
        live = f"{self.live.version}.{self.live.num_tokens}" if self.live is not None else "-"
        return f"{self.row.version}.{live}"


def find_job(services: WebServices, tenant: str, public_id: str) -> JobView:
    """A tenant's job by its id or by the id that the tenant chose for it.

    Raises:
        NotFoundError: There is none, or it is somebody else's.
        GoneError: Its content has been deleted.

    """
    return see_job(services, _read_row(services, tenant, public_id))


def see_job(services: WebServices, row: JobRow) -> JobView:
    """A job whose row was read or written a moment ago; raises GoneError if its content has been deleted since."""
    if row.status.is_terminal:
        return JobView(row, None)
    live = view_if_reachable(services, row.id)
    if live is None or not live.ended:
        return JobView(row, live)
    # It ended between the two reads; an end shows in the ledger before it shows anywhere else.
    return JobView(_read_row(services, row.tenant, row.id), None)


def views_of(services: WebServices, rows: Sequence[JobRow]) -> list[JobView]:
    """Put the live records of many jobs on top of their rows, in one round trip."""
    active = [row.id for row in rows if not row.status.is_terminal]
    try:
        found = dict(zip(active, services.live.jobs.views(active), strict=True)) if active else {}
    except UnavailableError:
        found = {}
    # A job that ended after its row was read shows as what the row says, active, for the last time.
    return [JobView(row, live if (live := found.get(row.id)) and not live.ended else None) for row in rows]


def view_if_reachable(services: WebServices, job_id: str) -> LiveJob | None:
    """The live record; None too when the live state is away, because the ledger alone still answers."""
    try:
        return services.live.jobs.view(job_id)
    except UnavailableError:
        return None


def _read_row(services: WebServices, tenant: str, public_id: str) -> JobRow:
    with services.ledger.reading() as session:
        if public_id.startswith("job_"):
            row = get_job(session, public_id, tenant)
        else:
            row = get_job_by_client_id(session, tenant, public_id)
    if row is None:
        raise NotFoundError("there is no such job")
    if row.purged_at is not None:
        raise GoneError("the content of this job has been deleted")
    return row
