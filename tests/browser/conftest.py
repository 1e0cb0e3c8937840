"""One headless Chromium and one cluster for all browser tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import sync_playwright

from tests.support.cluster import Cluster


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """A browser; a machine that has none skips and says so.

    It runs an event loop in this thread, so it has to end before other tests want one.
    """
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("Chromium is not installed (apt-get install chromium): its tests cannot run")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes and one tiny model; a password is set by hand, so that a test can follow the link that is printed."""
    # Slow enough for a person to do something about a job that runs.
    with Cluster(step_ms=50, SLLM_WEBHOOK_NETWORKS="127.0.0.1") as cluster:
        yield cluster
