"""The admin UI as one thing: its pages, its filters, and the way to it."""

from __future__ import annotations

from flask import Flask, Response, redirect

from webapp.admin import (  # noqa: F401 - each registers its views
    audit,
    audit_export,
    cancel_jobs,
    charts,
    checkpoints,
    decisions,
    events,
    failed,
    job,
    jobs,
    keys,
    migrations,
    models,
    operations,
    overview,
    placements,
    settings,
    sign_in,
    tenants,
    users,
    webhooks,
)
from webapp.admin.blueprint import blueprint
from webapp.admin.formats import FILTERS


def init_app(app: Flask) -> None:
    """Serve the admin UI below `/admin`, and send whoever opens the bare address there."""
    app.jinja_env.filters.update(FILTERS)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.register_blueprint(blueprint)
    app.add_url_rule("/", "root", _to_admin)


def _to_admin() -> Response:
    response = redirect("/admin")
    if not isinstance(response, Response):
        raise TypeError("Flask's own redirect answers with Flask's own response")
    return response
