"""The main job on this machine: two checkpoints, a cluster of two nodes, jobs by client, REST and CLI, a lost worker.

Everything shown is measured while it runs, and everything claimed is checked: with `--exit` the status is 0 only if
all of it held.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from huggingface_hub import snapshot_download

from scripts.live_cluster import LiveCluster
from sllm_tasks.client import Client, Job, Token, calls

_SUMS = {"seven plus five is": "twelve", "three plus four is": "seven", "nine plus eight is": "seventeen"}
_LONG_TOKENS = 400
_KILL_AT_TOKEN = 20


@dataclass(slots=True)
class Report:
    """What held and what did not."""

    lines: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def check(self, held: bool, what: str) -> None:
        """Note a claim."""
        self.lines.append(f"  {'ok  ' if held else 'FAIL'}  {what}")
        if not held:
            self.failures.append(what)

    def print(self) -> None:
        """Show all of it."""
        print("\n== Report")
        print("\n".join(self.lines))


def say(text: str) -> None:
    """Head a part of the demo."""
    print(f"\n== {text}", flush=True)


def make_checkpoints(folder: Path) -> dict[str, Path]:
    """Make the two checkpoints, once; the Llama is trained for up to a minute."""
    # Imported only here: the demo itself speaks to the cluster as any client does, without torch.
    from scripts.demo_checkpoints import make_llama, make_opt  # noqa: PLC0415

    made = {}
    for name, make in (("sums", make_llama), ("opt", make_opt)):
        path = folder / name
        # What is written last: a demo that was stopped may have left the others.
        if not (path / "tokenizer_config.json").exists():
            started_s = time.monotonic()
            make(path)
            print(f"{name}: made in {time.monotonic() - started_s:.1f} s at {path}")
        made[name] = path
    return made


def local_directory(checkpoint: str) -> Path:
    """Return a checkpoint's directory; a hub id is downloaded first, weights as safetensors and nothing executable."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint).resolve()
    print(f"{checkpoint} is no directory here; downloading it from the hub")
    patterns = ["*.json", "*.safetensors", "*.jinja"]
    try:
        return Path(snapshot_download(checkpoint, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise SystemExit(
            f"{checkpoint} is neither a directory here nor to be had from the hub: {first_line}"
        ) from error


def deploy(client: Client, models: dict[str, Path | str]) -> None:
    """Deploy models and say what came of it."""
    started_s = time.monotonic()
    operations = {name: client.deploy(name, str(source)) for name, source in models.items()}
    for name, operation in operations.items():
        client.wait_for(operation, timeout=180)
        print(f"{name}: deployed, {time.monotonic() - started_s:.1f} s after the request")


def stream(job: Job, on_token: Callable[[Token], None] = lambda _: None) -> str:
    """Print a job's text as it comes, and return it."""
    text = ""
    for item in job.stream():
        if isinstance(item, Token):
            text += item.text
            on_token(item)
            print(item.text, end="", flush=True)
        else:
            text = item.text
    print()
    return text


def by_client(client: Client, model: str, prompts: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Stream the first (cold) job, then warm ones; returns the timings of both kinds."""
    cold = client.submit(model=model, prompt=prompts[0], max_tokens=16)
    print(f"{prompts[0]!r} ->", end="")
    stream(cold)
    warm = []
    for _ in range(5):
        for prompt in prompts:
            job = client.submit(model=model, prompt=prompt, max_tokens=16)
            job.result(timeout=60)
            warm.append(job.refresh().raw["timings_ms"])
    return cold.refresh().raw["timings_ms"], warm


def show_first_token(cold: dict[str, Any], warm: list[dict[str, Any]]) -> tuple[float, float]:
    """Print the parts of the first token's time; returns the totals of cold and warm in ms."""

    def parts(timings: dict[str, Any]) -> list[float]:
        total = timings["first_token"]
        known = [timings[name] or 0 for name in ("queued", "placing", "loading")]
        return [*known, total - sum(known), total]

    rows = {"cold": parts(cold), "warm (median)": [median(column) for column in zip(*map(parts, warm), strict=True)]}
    print(f"{'first token, ms':16}{'queue':>8}{'place':>8}{'load':>8}{'prefill':>9}{'total':>8}")
    for name, numbers in rows.items():
        queue, place, load, prefill, total = numbers
        print(f"{name:16}{queue:8.0f}{place:8.0f}{load:8.0f}{prefill:9.0f}{total:8.0f}")
    return rows["cold"][-1], rows["warm (median)"][-1]


def by_rest(cluster: LiveCluster, model: str, prompt: str) -> str:
    """Submit with nothing but HTTP and wait for the end in the same request."""
    body = json.dumps({"model": model, "input": {"prompt": prompt}, "params": {"max_tokens": 16}}).encode()
    headers = {
        "Authorization": f"Bearer {cluster.api_key}",
        "Content-Type": "application/json",
        "Prefer": "wait=60",
    }
    request = urllib.request.Request(f"{cluster.url}/api/v1/jobs", body, headers)
    with urllib.request.urlopen(request, timeout=90) as response:
        return str(json.load(response)["output"]["text"])


def by_cli(cluster: LiveCluster, model: str, prompt: str) -> str:
    """Run `sllm run`."""
    command = [sys.executable, "-m", "sllm_tasks.cli.main", "run", model, prompt, "--max-tokens", "16"]
    done = subprocess.run(command, env=cluster.environ, capture_output=True, text=True, timeout=120, check=False)
    print(f"$ sllm run {model} {prompt!r}\n{done.stdout.strip()}{done.stderr.strip()}")
    return done.stdout.strip()


def lose_a_worker(cluster: LiveCluster, client: Client, model: str, prompt: str, report: Report) -> None:
    """Kill the worker that decodes a job and see the job end with the tokens of an undisturbed run."""
    undisturbed = client.submit(model=model, prompt=prompt, max_tokens=_LONG_TOKENS)
    expected = undisturbed.result(timeout=120).text
    job = client.submit(model=model, prompt=prompt, max_tokens=_LONG_TOKENS)
    seen: list[Token] = []
    longest_s, last_s = 0.0, time.monotonic()
    killed = ""

    def on_token(token: Token) -> None:
        nonlocal longest_s, last_s, killed
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
        seen.append(token)
        if token.index == _KILL_AT_TOKEN and not killed:
            where = job.refresh().raw["assignment"]
            worker = f"worker-{where['node']}.{where['gpus'][0]}"
            pid = cluster.pid(worker)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                killed = worker

    for item in job.stream():
        if isinstance(item, Token):
            on_token(item)
    text = job.result(timeout=120).text
    attempts = client.run(calls.get_list(f"jobs/{job.id}/attempts"))
    print(f"{killed} killed at token {_KILL_AT_TOKEN}; the reader saw a pause of {longest_s:.1f} s")
    for attempt in attempts:
        print(f"  attempt {attempt['attempt']} on {attempt['node']}: {attempt['exit_reason']}")
    report.check(bool(killed) and len(attempts) > 1, f"{killed or 'no worker'} was killed, and the job moved on")
    report.check(text == expected, "the job ended with the same text as an undisturbed one")
    indexes = [token.index for token in seen]
    report.check(indexes == list(range(len(indexes))), f"its reader saw {len(indexes)} tokens, none twice or missing")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; returns the exit status."""
    started_s = time.monotonic()
    report = Report()
    home = Path(arguments.home).resolve()
    home.mkdir(parents=True, exist_ok=True)
    if arguments.checkpoint:
        models: dict[str, Path | str] = {"model": local_directory(arguments.checkpoint)}
        prompts = ["The capital of France is", "Once upon a time"]
    else:
        say("Two checkpoints in Hugging Face format")
        models = dict(make_checkpoints(home / "checkpoints"))
        prompts = list(_SUMS)
    say("sllm up: broker, web, router, control, two nodes with a worker each")
    with LiveCluster({"SLLM_NODES": "2"}, home=home) as cluster, Client(cluster.url, cluster.api_key) as client:
        print(f"{cluster.url} is up, {time.monotonic() - started_s:.1f} s after the start of the demo")
        say("Deploy")
        deploy(client, models)
        name = next(iter(models))
        say("Jobs by the Python client, streamed")
        cold_ms, warm_ms = show_first_token(*by_client(client, name, prompts))
        report.check(warm_ms < cold_ms, f"first token: cold {cold_ms:.0f} ms, warm {warm_ms:.0f} ms")
        say("The same by REST and by the CLI")
        answers = {
            "REST": by_rest(cluster, name, prompts[0]).strip(),
            "CLI": by_cli(cluster, name, prompts[0]),
            "client": client.submit(model=name, prompt=prompts[0], max_tokens=16).result(timeout=60).text.strip(),
        }
        print(answers)
        report.check(len(set(answers.values())) == 1, "REST, CLI and client give the same text")
        if not arguments.checkpoint:
            texts = {
                prompt: client.submit(model=name, prompt=prompt, max_tokens=16).result(timeout=60).text
                for prompt in _SUMS
            }
            right = [prompt for prompt, sum_ in _SUMS.items() if texts[prompt].strip(" .") == sum_]
            report.check(len(right) == len(_SUMS), f"{len(right)} of {len(_SUMS)} sums are right: {texts}")
        say("A worker is killed while it decodes")
        lose_a_worker(cluster, client, list(models)[-1], prompts[0], report)
        report.check(not report.failures, f"the demo took {time.monotonic() - started_s:.0f} s")
        report.print()
        if not arguments.exit:
            print(f"\nThe cluster stays up: {cluster.url}  key: {cluster.api_key}\nCtrl-C stops it.", flush=True)
            _wait_for_interrupt()
    return 1 if report.failures else 0


def _wait_for_interrupt() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("stopping")


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("checkpoint", nargs="?", help="a directory or hub id to serve instead of the made ones")
    parser.add_argument("--exit", action="store_true", help="end after the report; status 0 only if all of it held")
    parser.add_argument("--home", default=".demo", help="state folder (default: %(default)s)")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
