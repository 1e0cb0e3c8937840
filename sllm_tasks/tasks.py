"""What every Celery task of ours shares: its trigger is checked before anything else happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery, Task

from sllm_tasks.errors import MessageRejectedError, UnavailableError
from sllm_tasks.livestate import LiveState
from sllm_tasks.signing import Signer, Trigger

logger = logging.getLogger(__name__)


def register_task(
    app: Celery,
    name: str,
    body: Callable[[Trigger], None],
    *,
    signer: Signer,
    live: LiveState,
    base: type[Task] = Task,
) -> None:
    """Add a task whose body gets a checked trigger; a message that is no trigger of ours is counted and dropped."""

    def run(*args: Any, **message: Any) -> None:
        try:
            if args:
                raise MessageRejectedError(f"{name}: a trigger has no positional arguments")
            trigger = signer.check(name, message)
        except MessageRejectedError as error:
            logger.warning("message rejected: %s", error)
            count_rejected(live)
            return
        try:
            body(trigger)
        except UnavailableError as error:
            # The sweeper sends the trigger again once the live state is back.
            logger.warning("%s for %s not done: %s", name, trigger.subject, error)

    app.task(run, name=name, base=base, typing=False)


def count_rejected(live: LiveState) -> None:
    """Count a rejected message, if the live state can be reached."""
    try:
        live.count("messages_rejected")
    except UnavailableError as error:
        logger.warning("a rejected message was not counted: %s", error)
