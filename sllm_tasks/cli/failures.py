"""Errors on the command line: an exit status for programs; a code, a request id and the next command for people."""

from __future__ import annotations

from enum import IntEnum

import click

from sllm_tasks.client.errors import ApiError
from sllm_tasks.errors import ConfigError, ErrorCode, SllmError


class Exit(IntEnum):
    """What the exit status says."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    TIMEOUT = 5
    UNAVAILABLE = 6
    INTERRUPTED = 130


_EXIT_OF_CODE = {
    ErrorCode.NOT_FOUND: Exit.NOT_FOUND,
    ErrorCode.MODEL_NOT_FOUND: Exit.NOT_FOUND,
    ErrorCode.GONE: Exit.NOT_FOUND,
    ErrorCode.UNAUTHORIZED: Exit.AUTH,
    ErrorCode.FORBIDDEN: Exit.AUTH,
    ErrorCode.TIMEOUT: Exit.TIMEOUT,
    ErrorCode.UNAVAILABLE: Exit.UNAVAILABLE,
    ErrorCode.MODEL_NOT_READY: Exit.UNAVAILABLE,
}

_NEXT_COMMAND = {
    ErrorCode.NOT_FOUND: "sllm job ls, sllm models, sllm node ls",
    ErrorCode.CONFLICT: "sllm status",
    ErrorCode.CHECKPOINT_MISSING: "the command again with a directory that is there",
    ErrorCode.CHECKPOINT_CORRUPT: "sllm ckpt inspect DIRECTORY",
    ErrorCode.CHECKPOINT_UNSUPPORTED: "sllm ckpt inspect DIRECTORY",
    ErrorCode.GONE: "sllm job ls",
    ErrorCode.MODEL_NOT_FOUND: "sllm models",
    ErrorCode.MODEL_NOT_READY: "sllm models",
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: "sllm models",
    ErrorCode.TOKENIZER_MISSING: "the command again with a directory that has a tokenizer.json",
    ErrorCode.UNAUTHORIZED: "set SLLM_API_KEY, or make a key on the server's machine: sllm key create NAME --local",
    ErrorCode.FORBIDDEN: "sllm key create NAME --scope ...",
    ErrorCode.OUT_OF_MEMORY: "sllm status",
    ErrorCode.TIMEOUT: "sllm status; what was started goes on",
    ErrorCode.INVALID_REQUEST: "the command again with --help",
}


def report(error: SllmError, message: str) -> Exit:
    """Say on standard error what went wrong, in the words of `message`, and what to try; the answer is the status."""
    # A newer server may know codes that this client does not.
    code = getattr(error, "code_text", error.code)
    request_id = getattr(error, "request_id", None)
    click.echo(f"error: {message}", err=True)
    click.echo(f"  code: {code}" + (f"  request: {request_id}" if request_id else ""), err=True)
    click.echo(f"  try: {_next_command(error)}", err=True)
    return _exit_of(error)


def _next_command(error: SllmError) -> str:
    # Not its subclasses, which are about traces and simulations.
    if type(error) is ConfigError:
        return "sllm config --help"
    return _NEXT_COMMAND.get(error.code, "sllm doctor")


def _exit_of(error: SllmError) -> Exit:
    # The same code in a job that failed says nothing of the command.
    was_refused = isinstance(error, ApiError) and error.code is ErrorCode.INVALID_REQUEST
    if was_refused or isinstance(error, ConfigError):
        return Exit.USAGE
    return _EXIT_OF_CODE.get(error.code, Exit.FAILURE)
