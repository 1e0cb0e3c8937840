"""The Flask application: blueprints over services, and nothing else."""

from __future__ import annotations

import logging
import re
import time
from typing import Final

from flask import Flask, Response, g, request

from sllm_tasks import logs
from sllm_tasks.ids import new_id
from sllm_tasks.networks import parse_networks
from sllm_tasks.traceparent import trace_id, valid_traceparent
from webapp import problems
from webapp.admin import site
from webapp.api import (
    checkpoints,
    health,
    job_events,
    jobs,
    keys,
    metrics,
    migrations,
    models,
    nodes,
    openapi,
    operations,
    placements,
    queues,
    scheduler,
    tenants,
    users,
    webhooks,
)
from webapp.incoming import check_path
from webapp.openai import batches as openai_batches
from webapp.openai import completions as openai_completions
from webapp.openai import files as openai_files
from webapp.openai import models as openai_models
from webapp.openapi.query_names import check_query_names
from webapp.proxies import TrustedProxies
from webapp.rate_limits import tell_rates
from webapp.services import EXTENSION, WebServices, services

logger = logging.getLogger(__name__)

_CLIENT_REQUEST_ID: Final = re.compile(r"[\w.-]{1,128}", re.ASCII)


def create_app(web: WebServices) -> Flask:
    """Build the application; the caller owns the services."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = web.settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined] # of Flask's default provider
    trusted = parse_networks(web.settings.trusted_proxies)
    app.wsgi_app = TrustedProxies(app.wsgi_app, trusted)  # type: ignore[method-assign] # as Flask documents it
    app.extensions[EXTENSION] = web
    app.before_request(_name_request)
    app.before_request(check_path)
    app.before_request(check_query_names)
    app.after_request(_tell_request)
    app.after_request(tell_rates)
    problems.init_app(app)
    for resource in (
        health,
        metrics,
        openapi,
        jobs,
        job_events,
        migrations,
        models,
        operations,
        nodes,
        checkpoints,
        placements,
        queues,
        scheduler,
        tenants,
        keys,
        users,
        webhooks,
    ):
        app.register_blueprint(resource.blueprint)
    for openai_resource in (openai_models, openai_completions, openai_files, openai_batches):
        app.register_blueprint(openai_resource.blueprint)
    site.init_app(app)
    return app


def _name_request() -> None:
    g.received_ns = time.monotonic_ns()
    g.request_id = new_id("req")
    g.traceparent = valid_traceparent(request.headers.get("traceparent", ""))
    client_id = request.headers.get("X-Client-Request-Id", "")
    logs.bind(
        request_id=g.request_id,
        client_request_id=client_id if _CLIENT_REQUEST_ID.fullmatch(client_id) else None,
        trace_id=trace_id(g.traceparent),
    )


def _tell_request(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    rule = request.url_rule
    services().metrics.count_request(rule.rule if rule is not None else "none", response.status_code)
    logger.debug("%s %s %s -> %s", g.request_id, request.method, request.path, response.status_code)
    return response
