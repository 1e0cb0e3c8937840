"""Settings of the web process, and where each is from."""

from __future__ import annotations

from flask import Response

from sllm_tasks.config import Settings, load_settings, masked
from sllm_tasks.errors import ConfigError
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs
from webapp.admin.blueprint import blueprint
from webapp.admin.pages import Context, page
from webapp.services import services


@blueprint.get("/settings")
@needs(Role.VIEWER)
def settings() -> Response:
    """Show every setting; secrets are masked."""
    return page("settings", _context)


def _context() -> Context:
    shown = services().settings
    try:
        _, origins = load_settings()
    except ConfigError:
        # Whoever started this process gave it settings; the file may have been broken since.
        origins = {}
    rows = [
        {
            "name": name,
            "value": masked(value),
            "origin": origins.get(name, "unknown"),
            "description": Settings.model_fields[name].description,
        }
        for name, value in shown.model_dump(mode="json").items()
    ]
    return {"settings": rows}
