"""`sllm ckpt`: checkpoints of this machine; needs no cluster and no settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import click

from sllm_tasks.cli.output import human_bytes, output_option, show_json, show_list, show_one
from sllm_tasks.errors import ConfigError

_Command = TypeVar("_Command", bound=Callable[..., Any])

_path = click.argument("path", type=click.Path(path_type=Path))
_partitions = click.option(
    "--partitions", type=click.IntRange(1, 64), default=1, show_default=True, help="Gpu ranks to split the layers over."
)
_threads = click.option(
    "--threads", type=click.IntRange(1, 64), default=4, show_default=True, help="Chunks under way at once."
)
_pack = click.option("--pack", is_flag=True, help="Pack bfloat16 weights, without loss, where it saves an eighth.")


def _conversion_options(command: _Command) -> _Command:
    return _partitions(_threads(_pack(command)))


@click.group()
def ckpt() -> None:
    """Import, convert, verify, inspect and time checkpoints on this machine."""


@ckpt.command("import")
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@_conversion_options
@output_option
def import_(source: str, destination: Path, partitions: int, threads: int, *, pack: bool, output: str) -> None:
    """Fetch a checkpoint from a URL (file, http, https, s3) or a path, and convert it if need be."""
    _show(output, _run("import", source, destination, partitions, threads, pack=pack))


@ckpt.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@_conversion_options
@output_option
def convert(source: Path, destination: Path, partitions: int, threads: int, *, pack: bool, output: str) -> None:
    """Convert a directory of .safetensors files to the format that loads fastest."""
    _show(output, _run("convert", source, destination, partitions, threads, pack=pack))


@ckpt.command()
@_path
@output_option
def verify(path: Path, output: str) -> None:
    """Read all of a checkpoint and compare it with its digests; names the tensor and chunk of any damage."""
    _show(output, _run("verify", path))


@ckpt.command()
@click.argument("source")
@click.option("--tensors", is_flag=True, help="List the tensors.")
@output_option
def inspect(source: str, *, tensors: bool, output: str) -> None:
    """Show what is in a checkpoint, here or behind a URL, without reading its weights."""
    record = dict(_run("inspect", source))
    listed = record.pop("tensors")
    if output == "json":
        show_json({**record, "tensors": listed} if tensors else record)
        return
    _show(output, record)
    if tensors:
        click.echo()
        show_list(
            output,
            listed,
            {
                "TENSOR": lambda row: row["name"],
                "DTYPE": lambda row: row["dtype"],
                "SHAPE": lambda row: "x".join(map(str, row["shape"])) or "-",
                "SIZE": lambda row: human_bytes(row["num_bytes"]),
                "LAYOUT": lambda row: row["layout"],
            },
        )


@ckpt.command()
@_path
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda:<index>.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Loads of each kind.")
@output_option
def bench(path: Path, device: str, rounds: int, output: str) -> None:
    """Time loads of a checkpoint: from the disk, and from the node's kind of DRAM pool."""
    record = _run("bench", path, device, rounds)
    if output == "json":
        show_json(record)
        return
    show_one(output, {"path": record["path"], "device": record["device"], "pages": record["page_kind"]})
    show_list(
        output,
        record["loads"],
        {
            "FROM": lambda row: row["loaded_from"],
            "SECONDS": lambda row: row["seconds"],
            "GB/S": lambda row: row["gigabytes_per_s"],
        },
    )


def _show(output: str, record: Mapping[str, Any]) -> None:
    if output == "table":
        record = {**record, "num_bytes": human_bytes(record["num_bytes"])}
        if "dtypes" in record:
            record["dtypes"] = ", ".join(f"{name} {human_bytes(size)}" for name, size in record["dtypes"].items())
    show_one(output, record)


def _run(name: str, *arguments: object, **options: object) -> Mapping[str, Any]:
    # By entry point: the command line reaches neither torch nor numba until one of these commands runs.
    found = entry_points(group="sllm.checkpoints", name=name)
    if not found:
        raise ConfigError("no installed package offers commands on checkpoints; install sllm-tasks anew")
    run: Callable[..., Mapping[str, Any]] = next(iter(found)).load()
    return run(*arguments, **options)
