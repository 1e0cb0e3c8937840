"""The jobs of one request: accepted together, waited for together, stopped together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from flask import Response, after_this_request

from sllm_tasks.endings import cancel_job
from sllm_tasks.errors import ConflictError, SllmError, UnavailableError
from sllm_tasks.ledger.job_lists import group_jobs
from sllm_tasks.ledger.jobs import NewJob
from sllm_tasks.ledger.keys import ApiKey
from webapp.errors import JobFailedError
from webapp.incoming import keyed_request
from webapp.job_intake import accept_once, charge, origin_of_request
from webapp.job_views import JobView, find_job
from webapp.job_waits import wait_for_end
from webapp.openai.answers import Choice, Envelope
from webapp.openai.choices import choice_of
from webapp.openai.token_texts import TokenTexts
from webapp.openai.translate import Wanted, choices_of
from webapp.outgoing import replayed
from webapp.services import WebServices

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """Accepted jobs, one for each choice."""

    services: WebServices
    wanted: Wanted
    views: tuple[JobView, ...]
    #: Whether the jobs go on without their client: it sent a key under which it can come back for them.
    outlives_client: bool

    @property
    def envelope(self) -> Envelope:
        """What answers say of themselves."""
        row = self.views[0].row
        return Envelope(
            endpoint=self.wanted.endpoint,
            job_id=row.id,
            model=row.model,
            created_s=int(row.created_at.timestamp()),
            texts=TokenTexts(self.services.prompts.tokenizer(row.checkpoint)),
            choices_per_prompt=self.wanted.num_choices,
        )

    def wait(self, has_gone: Callable[[], bool]) -> list[Choice]:
        """Wait for all answers.

        Raises:
            JobFailedError: One of the jobs ended without an answer; the others are stopped.
            UnavailableError: The client or the server leaves; the jobs are stopped.

        """
        stopping = self.services.stopping

        def gives_up() -> bool:
            return stopping.is_set() or has_gone()

        choices = []
        try:
            for view in self.views:
                row = wait_for_end(self.services, view, gives_up).row
                if not row.status.is_terminal:
                    raise UnavailableError("the server stops; the request was not finished")
                choices.append(choice_of(row))
        except (JobFailedError, UnavailableError):
            self.stop()
            raise
        return choices

    def stop(self) -> None:
        """Stop what has not ended, unless it is to outlive its client."""
        if not self.outlives_client:
            _stop(self.services, [view.row.id for view in self.views])


def accept(services: WebServices, wanted: Wanted, key: ApiKey) -> Requested:
    """Accept the jobs of this request; sent again with its key, it finds those of the first time.

    Raises SllmError of a kind that `webapp.openai.errors` describes.
    """
    tenant = key.tenant
    request_again = keyed_request(tenant)
    origin = origin_of_request(tenant)
    rest: list[NewJob] = []

    def make() -> NewJob:
        made = tuple(services.job_maker.make(job, origin, fills_context=wanted.fills_context) for job in wanted.jobs)
        first, *others = choices_of(made, wanted, None)
        charge(services, key, (first, *others))
        rest.extend(others)
        return first

    accepted = accept_once(services.admission, request_again, make)
    job_ids = [accepted.job_id]
    try:
        for new in rest:
            # Its place is taken when another sending got as far as this.
            with suppress(ConflictError):
                services.admission.submit(replace(new, group_id=accepted.job_id))
                job_ids.append(new.spec.job_id)
    except SllmError:
        # Under its key the request can be sent again, and then finds what was accepted of it.
        if request_again is None:
            _stop(services, job_ids)
        raise
    if not accepted.is_new:
        after_this_request(replayed)
    if not accepted.is_new or len(job_ids) <= len(rest):
        # Some of them are those of another sending, before this one or at the same time.
        with services.ledger.reading() as session:
            job_ids = [row.id for row in group_jobs(session, accepted.job_id)] or job_ids
    _name_jobs(job_ids)
    return Requested(
        services=services,
        wanted=wanted,
        views=tuple(find_job(services, tenant, job_id) for job_id in job_ids),
        outlives_client=request_again is not None,
    )


def _stop(services: WebServices, job_ids: Iterable[str]) -> None:
    for job_id in job_ids:
        try:
            cancel_job(services.ledger, services.live, job_id)
        except UnavailableError as error:
            logger.warning("job %s was not stopped, though nobody waits for it: %s", job_id, error)


def _name_jobs(job_ids: Iterable[str]) -> None:
    """Say in the answer, whatever it will be, which jobs were accepted."""

    def add_header(response: Response) -> Response:
        response.headers["X-Job-ID"] = ", ".join(job_ids)
        return response

    after_this_request(add_header)
