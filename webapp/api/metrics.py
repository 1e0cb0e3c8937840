"""`/metrics`: the cluster and this web process, for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response, request
from prometheus_client.exposition import choose_encoder

from sllm_tasks.ledger.keys import Scope
from webapp.auth import requires
from webapp.services import services

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def get_metrics() -> Response:
    """Show all metrics, to everybody if the settings say so, else to keys that may read what admins read."""
    return _metrics() if services().settings.open_metrics else _metrics_for_key()


def _metrics() -> Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(services().metrics.registry), content_type=content_type)


_metrics_for_key = requires(Scope.ADMIN_READ)(_metrics)
