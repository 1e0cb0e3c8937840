"""Run the official `openai` package against a live cluster, one check after the other, and say what held."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import openai

# Importing them fills the list of checks.
from scripts.live_cluster import LiveCluster
from scripts.openai_checks import answers, batches, lifetimes, refusals  # noqa: F401
from scripts.openai_checks.world import CHECKS, World, make_chat_checkpoint, open_world
from sllm_tasks.client import Client


def run_checks(world: World) -> list[str]:
    """Run every check and print it; returns the names of those that failed."""
    failed = []
    for check in CHECKS:
        started_s = time.monotonic()
        try:
            check(world)
        except Exception:  # noqa: BLE001 - the edge of one check: whatever it raises is its result
            failed.append(check.__name__)
            traceback.print_exc()
        held = "FAIL" if check.__name__ in failed[-1:] else "ok  "
        print(f"{held}  {time.monotonic() - started_s:5.2f} s  {check.__name__.replace('_', ' ')}", flush=True)
    print(f"openai {openai.__version__}: {len(CHECKS) - len(failed)} of {len(CHECKS)} checks held")
    return failed


def check_cluster(url: str, api_key: str, model: str) -> list[str]:
    """Run every check against a cluster that serves `model`; returns the names of those that failed."""
    world = open_world(url, api_key, model)
    with world.openai, world.native:
        return run_checks(world)


def main() -> int:
    """Parse the command line; without a URL, start a cluster for the time."""
    parser = argparse.ArgumentParser(prog="scripts/openai_conformance", description=__doc__)
    parser.add_argument("--url", help="of a running cluster, such as http://127.0.0.1:8080; default: one is started")
    parser.add_argument("--api-key", help="with every scope")
    parser.add_argument("--model", default="conformance", help="with a chat template and a context of 256 or more")
    arguments = parser.parse_args()
    if arguments.url:
        return bool(check_cluster(arguments.url, arguments.api_key, arguments.model))
    # Steps of 20 ms, so that there is time to leave while a job runs.
    environ = {"SLLM_NODES": "1", "SLLM_FAILPOINTS": "decode.step=sleep:20"}
    with TemporaryDirectory() as folder, LiveCluster(environ) as cluster:
        source = make_chat_checkpoint(Path(folder) / "checkpoint")
        with Client(cluster.url, cluster.api_key) as client:
            deployed = client.deploy(arguments.model, str(source), context=300, max_jobs=8, keep_alive_s=0.5)
            client.wait_for(deployed, timeout=120)
        return bool(check_cluster(cluster.url, cluster.api_key, arguments.model))


if __name__ == "__main__":
    sys.exit(main())
