"""`sllm ps` and `sllm status`."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import human_bytes, output_option, show_json, show_list
from sllm_tasks.client import Client


@click.command()
@output_option
def ps(output: str) -> None:
    """List what is loaded where."""
    with Client() as client:
        gpus = [gpu for node in client.nodes() for gpu in node["gpus"]]
    replicas = [{**replica, "gpu": gpu["id"]} for gpu in gpus for replica in gpu["replicas"]]
    show_list(
        output,
        replicas,
        {
            "REPLICA": lambda replica: replica["id"],
            "MODEL": lambda replica: replica["model"],
            "STATE": lambda replica: replica["state"],
            "GPU": lambda replica: replica["gpu"],
            "JOBS": lambda replica: f"{replica['num_jobs']}/{replica['max_jobs']}",
            "MEMORY": lambda replica: human_bytes(replica["bytes_per_gpu"]),
        },
    )


@click.command()
@output_option
def status(output: str) -> None:
    """Show the nodes, their gpus and the models."""
    with Client() as client:
        nodes, models = client.nodes(), client.models()
    if output == "json":
        show_json({"nodes": list(nodes), "models": list(models)})
        return
    gpus = [{**gpu, "agent": node["agent"]} for node in nodes for gpu in node["gpus"]]
    show_list(
        output,
        gpus,
        {
            "GPU": lambda gpu: gpu["id"],
            "STATE": lambda gpu: gpu["state"],
            "DEVICE": lambda gpu: gpu["device"],
            "AGENT": lambda gpu: gpu["agent"],
            "MEMORY": lambda gpu: f"{human_bytes(gpu['reserved_bytes'])} of {human_bytes(gpu['capacity_bytes'])}",
            "REPLICAS": lambda gpu: ", ".join(replica["model"] for replica in gpu["replicas"]) or "-",
        },
    )
    click.echo()
    show_list(output, models, {"MODEL": lambda model: model["id"], "STATE": lambda model: model["state"]})
