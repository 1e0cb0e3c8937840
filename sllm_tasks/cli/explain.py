"""`sllm explain`: what the router would do for a job, and what else it could."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import note, output_option, show_json, show_list
from sllm_tasks.cli.starts import interval, place
from sllm_tasks.client import Client, calls
from sllm_tasks.client.records import Json


@click.command()
@click.argument("model")
@click.option("--prompt-tokens", type=click.IntRange(1), default=128, show_default=True, help="Length of its prompt.")
@output_option
def explain(model: str, prompt_tokens: int, output: str) -> None:
    """Show where a job of MODEL would run if it came now, at what price, and what else could be done."""
    with Client() as client:
        found = client.run(calls.explain(model, prompt_tokens=prompt_tokens))
    if output == "json":
        show_json(found)
        return
    choice = found["choice"]
    show_list(
        output,
        found["candidates"],
        {
            "CHOSEN": lambda candidate: "*" if _is(candidate, choice) else "",
            "PATH": lambda candidate: candidate["path"],
            "WHERE": place,
            "FIRST TOKEN": lambda candidate: f"{candidate['start']['seconds']:.2f} s",
            "80 % WITHIN": interval,
            "OTHERS PAY": lambda candidate: f"{candidate['others_s']:.2f} s",
            "EVICTS": lambda candidate: ",".join(candidate["victims"]) or "-",
            "MOVES": lambda candidate: ",".join(move["job_id"] for move in candidate["moves"]) or "-",
        },
    )
    if choice["reason"]:
        note(f"it would wait: {choice['reason']}")
    accuracy = found["accuracy"]
    if accuracy is not None:
        note(
            f"of the last {accuracy['num_decisions']} starts {accuracy['inside']:.0%} were inside of their intervals; "
            f"the error was {accuracy['median_error_s']:.2f} s at the median, {accuracy['p99_error_s']:.2f} s at p99"
        )


def _is(candidate: Json, choice: Json) -> bool:
    return all(candidate[name] == choice[name] for name in ("path", "replica_id", "gpus"))
