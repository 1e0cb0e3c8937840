"""From a request to an accepted job."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flask import g

from sllm_tasks.admission import Accepted, Admission
from sllm_tasks.errors import SllmError, UnavailableError
from sllm_tasks.ledger.jobs import NewJob
from sllm_tasks.ledger.keys import ApiKey
from sllm_tasks.livestate.rates import RateKind
from sllm_tasks.repeats import NamedRequest, RepeatableRequest
from sllm_tasks.timeline import mark_at
from webapp.job_maker import Origin
from webapp.schemas.jobs import JobRequest
from webapp.services import WebServices
from webapp.webhook_targets import check_target


def accept_once(admission: Admission, request_again: RepeatableRequest | None, make: Callable[[], NewJob]) -> Accepted:
    """Accept the job that `make` makes of the request, unless an earlier sending of it was accepted.

    What was accepted is not to be refused when it is sent again, whatever has become of its model since. It is looked
    for only where `make` refuses: otherwise it is found when the job is written, and a new request costs no query more.

    Raises:
        SllmError: Of a kind that `webapp.problems` has a status for.

    """
    try:
        new = make()
        admission.check_quota(new.spec.tenant)
    except UnavailableError:
        raise
    except SllmError:
        first = None if request_again is None else admission.find(request_again)
        if first is None:
            raise
        return first
    return admission.submit(new, request_again)


def new_job(services: WebServices, body: JobRequest, tenant: str, named: NamedRequest | None = None) -> NewJob:
    """Check a request against its model.

    Raises:
        SllmError: Of a kind that `webapp.problems` has a status for.

    """
    if body.webhook is not None:
        check_target(body.webhook.url, "/webhook/url", services.settings)
    new = services.job_maker.make(body, origin_of_request(tenant, named))
    mark_at("post.received", new.spec.job_id, g.received_ns)
    return new


def charge(services: WebServices, key: ApiKey, jobs: Iterable[NewJob]) -> None:
    """Count the tokens that jobs of this request may take, as those of its key; raises RateLimitedError."""
    num_tokens = sum(len(new.spec.prompt_ids) + new.spec.params.max_tokens for new in jobs)
    services.rate_limits.take(key, RateKind.TOKENS, num_tokens)


def origin_of_request(tenant: str, named: NamedRequest | None = None) -> Origin:
    """Say how the job of this request came in."""
    return Origin(tenant=tenant, request_id=g.request_id, traceparent=g.traceparent, named=named)
