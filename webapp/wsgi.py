"""The application for a WSGI server of one's own choice: `gunicorn 'webapp.wsgi:make_application()'`."""

from __future__ import annotations

from flask import Flask

from sllm_tasks.config import load_settings
from webapp.app import create_app
from webapp.services import open_services


def make_application() -> Flask:
    """Build the application from this process's settings; call it once per process, after any fork."""
    settings, _ = load_settings()
    return create_app(open_services(settings))
