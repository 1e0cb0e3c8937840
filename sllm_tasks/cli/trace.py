"""`sllm trace`: traces of requests, for `sllm replay` and `sllm simulate`; needs no cluster and no settings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from sllm_tasks.cli.output import note, output_option, show_list
from sllm_tasks.traces.azure import read_azure
from sllm_tasks.traces.fidelity import check_fidelity
from sllm_tasks.traces.files import write_trace
from sllm_tasks.traces.generate import Recipe, generate
from sllm_tasks.traces.lengths import LENGTHS

_models = click.option("--model", "models", multiple=True, required=True, help="A model of the trace; repeat it.")
_seed = click.option("--seed", type=int, default=0, show_default=True)
_zipf = click.option("--zipf", type=float, default=0.9, show_default=True, help="Exponent of the models' popularity.")
_to = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def trace() -> None:
    """Make traces of requests, and read public ones."""


@trace.command("generate")
@_to
@_models
@_seed
@_zipf
@click.option("--duration", "duration_s", type=float, default=1_800.0, show_default=True, help="Seconds.")
@click.option("--rate", "rate_per_s", type=float, default=0.8, show_default=True, help="Requests/s of all models.")
@click.option("--lengths", type=click.Choice(list(LENGTHS)), default="gsm8k", show_default=True)
@click.option("--cv", type=float, default=8.0, show_default=True, help="Of the gaps between requests of a model.")
@click.option("--mixed-cv", is_flag=True, help="Draw one cv per model, as in Azure Functions.")
@click.option("--swing", type=float, default=0.0, show_default=True, help="Of the rate over a day, 0 to 1.")
@click.option("--active-share", type=float, default=1.0, show_default=True, help="Of the time, per model.")
@click.option("--group-size", type=int, default=1, show_default=True, help="Models that are active together.")
@output_option
def generate_(  # noqa: PLR0913, PLR0917 - one argument per option
    file: Path,
    models: tuple[str, ...],
    seed: int,
    zipf: float,
    duration_s: float,
    rate_per_s: float,
    lengths: str,
    cv: float,
    swing: float,
    active_share: float,
    group_size: int,
    output: str,
    *,
    mixed_cv: bool,
) -> None:
    """Generate a trace by a recipe, and say how close it came."""
    recipe = Recipe(
        name=file.stem,
        seed=seed,
        duration_s=duration_s,
        rate_per_s=rate_per_s,
        models=models,
        lengths=lengths,
        cv=None if mixed_cv else cv,
        zipf=zipf,
        swing=swing,
        active_share=active_share,
        group_size=group_size,
    )
    made = generate(recipe)
    checks = check_fidelity(recipe, made)
    write_trace(made, file)
    note(f"{len(made.requests)} requests in {file}")
    show_list(
        output,
        [{**asdict(check), "holds": check.holds} for check in checks],
        {
            "PROPERTY": lambda row: row["name"],
            "WANTED": lambda row: f"{row['wanted']:.4g}",
            "MEASURED": lambda row: f"{row['measured']:.4g}",
            "HOLDS": lambda row: "yes" if row["holds"] else "no",
        },
    )


@trace.command()
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False))
@_to
@_models
@_seed
@_zipf
@click.option("--rate", "rate_per_s", type=float, help="Scale it to so many requests/s.")
def azure(source: Path, file: Path, models: tuple[str, ...], seed: int, zipf: float, rate_per_s: float | None) -> None:
    """Turn a file of Azure's public LLM traces into one of ours."""
    made = read_azure(source, models, zipf=zipf, seed=seed)
    if rate_per_s is not None:
        made = made.at_rate(rate_per_s)
    write_trace(made, file)
    note(f"{len(made.requests)} requests in {file}")
