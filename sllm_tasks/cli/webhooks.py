"""`sllm webhook`: who is told when jobs end."""

from __future__ import annotations

import click

from sllm_tasks.cli.output import note, output_option, show_list, show_one
from sllm_tasks.client import Client, calls, webhook_calls
from sllm_tasks.ledger.states import WebhookEvent

_EVENTS = [event.value for event in WebhookEvent]


@click.group()
def webhook() -> None:
    """Say who is told when jobs end, and see what has become of it."""


@webhook.command()
@click.argument("url")
@click.option("--event", "events", multiple=True, type=click.Choice(_EVENTS), default=_EVENTS, help="Default: all.")
@click.option("--tenant", default="default", show_default=True)
@output_option
def create(url: str, events: tuple[str, ...], tenant: str, output: str) -> None:
    """Tell URL of the jobs of a tenant, and print the secret that signs what is sent, for the only time."""
    with Client() as client:
        made = client.run(webhook_calls.create_webhook(url, events, tenant))
    note("keep the secret: it is not shown again")
    show_one(output, made)


@webhook.command("ls")
@output_option
def list_webhooks(output: str) -> None:
    """List webhooks."""
    with Client() as client:
        found = client.run(calls.get_list("webhooks"))
    show_list(
        output,
        found,
        {
            "WEBHOOK": lambda hook: hook["id"],
            "TENANT": lambda hook: hook["tenant"],
            "URL": lambda hook: hook["url"],
            "EVENTS": lambda hook: " ".join(hook["events"]),
            "ENABLED": lambda hook: "yes" if hook["enabled"] else hook["disabled_reason"],
            "FAILING SINCE": lambda hook: hook["failing_since"],
        },
    )


@webhook.command()
@output_option
def secret(output: str) -> None:
    """Print what signs messages to URLs that jobs bring themselves (`webhook` of a job)."""
    with Client() as client:
        show_one(output, client.run(webhook_calls.get_webhook_secret()))


@webhook.command()
@click.argument("webhook_id", metavar="WEBHOOK")
def enable(webhook_id: str) -> None:
    """Send to WEBHOOK again, from the next job on."""
    with Client() as client:
        client.run(webhook_calls.enable_webhook(webhook_id, enabled=True))
    note(f"enabled {webhook_id}")


@webhook.command()
@click.argument("webhook_id", metavar="WEBHOOK")
def disable(webhook_id: str) -> None:
    """Send nothing more to WEBHOOK, what waits included."""
    with Client() as client:
        client.run(webhook_calls.enable_webhook(webhook_id, enabled=False))
    note(f"disabled {webhook_id}")


@webhook.command("rm")
@click.argument("webhook_id", metavar="WEBHOOK")
def remove(webhook_id: str) -> None:
    """Forget WEBHOOK and what was sent to it."""
    with Client() as client:
        client.run(webhook_calls.delete_webhook(webhook_id))
    note(f"deleted {webhook_id}")


@webhook.command()
@click.argument("webhook_id", metavar="WEBHOOK")
@output_option
def test(webhook_id: str, output: str) -> None:
    """Send a message that says nothing; `deliveries` shows whether it arrived."""
    with Client() as client:
        show_one(output, client.run(webhook_calls.test_webhook(webhook_id)))


@webhook.command()
@click.argument("webhook_id", metavar="WEBHOOK")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@output_option
def deliveries(webhook_id: str, limit: int, output: str) -> None:
    """List what was sent to WEBHOOK last, newest first."""
    with Client() as client:
        found = client.run(webhook_calls.get_deliveries(webhook_id, limit))
    show_list(
        output,
        found,
        {
            "DELIVERY": lambda message: message["id"],
            "EVENT": lambda message: message["event"],
            "JOB": lambda message: message["job"],
            "STATUS": lambda message: message["status"],
            "TRIES": lambda message: message["attempts"],
            "ANSWER": lambda message: message["http_status"],
            "NEXT": lambda message: message["next_attempt_at"],
            "ERROR": lambda message: message["error"],
        },
    )


@webhook.command()
@click.argument("webhook_id", metavar="WEBHOOK")
@click.argument("delivery_id", metavar="DELIVERY")
@output_option
def redeliver(webhook_id: str, delivery_id: str, output: str) -> None:
    """Send DELIVERY at once, whatever has become of it."""
    with Client() as client:
        show_one(output, client.run(webhook_calls.redeliver(webhook_id, delivery_id)))
