"""Send generated requests to a live `sllm up` and hold every answer against the description of the API.

All phases of schemathesis: examples, boundary values of every field, random requests, and sequences in which one
answer leads to the next request. It fails on an answer of 500, on a status or a form that is not described, and on
bad input that is accepted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.demo_checkpoints import make_tiny
from scripts.live_cluster import LiveCluster
from sllm_tasks.client import Client

#: Not held: requests that are well-formed may still ask for a model that is not there; and 404 is as good a refusal
#: as any for a method that no view of a path takes.
_EXCLUDED = ("positive_data_acceptance",)
#: Last, and by itself: it revokes the key that everything else is asked with.
_REVOKING = "keys.revoke_key"


def main() -> int:
    """Run schemathesis twice; returns 0 if both found nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-examples", type=int, default=30, help="random requests per operation")
    parser.add_argument("--seed", type=int, default=1)
    arguments, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch, LiveCluster({}) as cluster:
        with Client(cluster.url, cluster.api_key) as client:
            client.wait_for(client.deploy("tiny", str(make_tiny(Path(scratch) / "tiny"))), timeout=120)
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{cluster.url}/api/v1/openapi.json",
            "--header", f"Authorization: Bearer {cluster.api_key}", "--phases", "examples,coverage,fuzzing,stateful",
            "--exclude-checks", ",".join(_EXCLUDED), "--max-examples", str(arguments.max_examples),
            "--seed", str(arguments.seed), "--request-timeout", "20", "--continue-on-failure", "--no-color", *more,
        ]  # fmt: skip
        runs = [[*command, option, _REVOKING] for option in ("--exclude-operation-id", "--include-operation-id")]
        statuses = [subprocess.run(run, cwd=scratch, check=False).returncode for run in runs]
        # That of a run that was killed is negative.
        return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
