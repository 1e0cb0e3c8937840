"""Take the pictures of `docs/screenshots` anew: a cluster of its own, some work for it, and a headless Chromium.

By hand, after pages have changed; it needs Chromium and the packages of the extra `test`.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from scripts.demo_checkpoints import make_opt, make_tiny
from scripts.live_cluster import LiveCluster
from sllm_tasks.client import Client, Job, calls

_FOLDER = Path(__file__).parents[1] / "docs" / "screenshots"
_PASSWORD = "correct horse battery"
#: Between rounds of jobs, in seconds.
_PAUSE_S = 3.0
#: File, page and colour scheme.
_PICTURES = (
    ("overview", "/admin", "light"),
    ("charts", "/admin/charts?window=15m", "light"),
    ("jobs-dark", "/admin/jobs", "dark"),
    ("placements", "/admin/placements", "light"),
    ("scheduler", "/admin/decisions", "light"),
    ("models", "/admin/models", "light"),
    ("checkpoints", "/admin/checkpoints", "light"),
    ("failed-jobs", "/admin/failed", "light"),
    ("migrations", "/admin/migrations", "light"),
    ("operations", "/admin/operations", "light"),
    ("events", "/admin/events", "light"),
    ("audit", "/admin/audit", "light"),
    ("settings", "/admin/settings", "light"),
    ("tenants", "/admin/tenants", "light"),
    ("api-keys", "/admin/keys", "light"),
    ("webhooks", "/admin/webhooks", "light"),
    ("users", "/admin/users", "light"),
)


def main() -> None:
    """Start, work, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of jobs that are run beforehand")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium")
    slow_steps = {"SLLM_FAILPOINTS": "decode.step=sleep:20", "SLLM_TORCH_THREADS": "1"}
    with tempfile.TemporaryDirectory() as made, LiveCluster(slow_steps) as cluster:
        client = Client(cluster.url, cluster.api_key)
        running = work(client, Path(made), options.rounds)
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(
                base_url=cluster.url, viewport={"width": 1200, "height": 640}, reduced_motion="reduce"
            )
            sign_in(page, (cluster.home / "up.log").read_text())
            for name, path, scheme in (("job", f"/admin/jobs/{running.id}", "light"), *_PICTURES):
                take(page, name, path, scheme)


def work(client: Client, folder: Path, num_rounds: int) -> Job:
    """Deploy two models, run jobs of both and measure the tiers; returns a job that still runs."""
    for name, source in (("opt-demo", make_opt(folder / "opt")), ("tiny-llama", make_tiny(folder / "tiny"))):
        client.wait_for(client.deploy(name, str(source), context=512, keep_alive_s=_PAUSE_S / 2), timeout=180)
    for node in client.nodes():
        client.wait_for(client.run(calls.calibrate_node(node["id"])), timeout=60)
    client.run(calls.put_tenant("research", {"weight": 2.0, "max_queued_jobs": 500}))
    draw = random.Random(1)
    for _ in range(num_rounds):
        # After a pause the replicas are gone, so that each round begins with loads and ends with warm starts.
        for _ in range(2):
            model = draw.choice(["opt-demo", "tiny-llama"])
            jobs = [
                client.submit(model=model, prompt="one two three", max_tokens=30) for _ in range(draw.randint(1, 4))
            ]
            for job in jobs:
                job.result(timeout=120)
        time.sleep(_PAUSE_S)
    running = [client.submit(model="tiny-llama", prompt="one two three", max_tokens=400) for _ in range(5)]
    next(iter(running[0].stream()))
    client.run(calls.start_migration(running[0].id))
    return running[0]


def sign_in(page: Page, log: str) -> None:
    """Follow the link of the first admin."""
    link = re.search(r"admin UI: (http\S+)", log)
    if link is None:
        raise SystemExit("the cluster has printed no link for its first admin")
    page.goto(link[1])
    page.get_by_label("Password").fill(_PASSWORD)
    page.get_by_label("Once more").fill(_PASSWORD)
    page.get_by_role("button", name="Set it and sign in").click()
    page.get_by_role("heading", name="Overview").wait_for()


def take(page: Page, name: str, path: str, scheme: str) -> None:
    """Take one picture."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(path)
    live = page.locator("#live-state")
    if live.count():
        live.wait_for(state="visible")
    page.screenshot(path=_FOLDER / f"{name}.png")
    print(_FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
