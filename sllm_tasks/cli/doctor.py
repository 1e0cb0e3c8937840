"""`sllm doctor`: what is wrong with this machine's setup, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Final

import click

from sllm_tasks.cli import doctor_machine
from sllm_tasks.cli.doctor_broker import look_at_broker
from sllm_tasks.cli.failures import Exit
from sllm_tasks.cli.findings import Finding, Health
from sllm_tasks.cli.output import output_option, show_list
from sllm_tasks.config import Settings, load_settings

_LOOKS: Final[tuple[Callable[[Settings], Iterator[Finding]], ...]] = (
    look_at_broker,
    doctor_machine.look_at_ledger,
    doctor_machine.look_at_secrets,
    doctor_machine.look_at_storage,
    doctor_machine.look_at_limits,
    doctor_machine.look_at_processors,
)


@click.command()
@output_option
def doctor(output: str) -> int:
    """Look for what is wrong with this machine's setup; fails if something does not work."""
    settings, _ = load_settings()
    findings = [finding for look in _LOOKS for finding in look(settings)]
    show_list(
        output,
        [asdict(finding) for finding in findings],
        {
            "WHAT": lambda finding: finding["what"],
            "HEALTH": lambda finding: finding["health"],
            "DETAIL": lambda finding: finding["detail"],
            "TRY": lambda finding: finding["remedy"],
        },
    )
    return Exit.FAILURE if any(finding.health is Health.ERROR for finding in findings) else Exit.OK
