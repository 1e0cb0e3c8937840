"""What an HTTP server's answer says: the size and version of a file, or why there is none."""

from __future__ import annotations

import re
from http import HTTPStatus

from loaders.errors import (
    CheckpointMissingError,
    LoaderError,
    RemoteChangedError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
)
from loaders.remote.connections import Answer
from loaders.remote.transport import RemoteFile

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})")
#: Beyond these and all of 500 and more, a status is an answer that will stay what it is.
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_LONGEST_WAIT_S = 30.0


def read_file(answer: Answer, name: str, where: str) -> RemoteFile:
    """Take size and version from the answer to a request for the first byte."""
    total = _total(answer, where)
    if total is None:
        raise RemoteError(f"{where}: the server does not say how large it is")
    has_ranges = answer.status != HTTPStatus.OK or total == 0
    return RemoteFile(name=name, where=where, num_bytes=total, version=_version(answer), has_ranges=has_ranges)


def check_part(answer: Answer, file: RemoteFile, offset: int) -> None:
    """Raise RemoteChangedError unless the answer holds bytes from an offset on of the file that was looked at."""
    if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise RemoteChangedError(f"{file.where}: has become shorter")
    total = _total(answer, file.where)
    if total != file.num_bytes or _version(answer) != file.version:
        raise RemoteChangedError(f"{file.where}: changed while it was being read")
    match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
    begin = int(match[1]) if match is not None and match[1] is not None else 0
    if file.has_ranges != (answer.status == HTTPStatus.PARTIAL_CONTENT) or begin != offset:
        raise RemoteError(f"{file.where}: asked for bytes from {offset} on, the server sends those from {begin} on")


def raise_for_status(answer: Answer, where: str) -> None:
    """Turn a status that brings no bytes into an error that names the file."""
    status = answer.status
    if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}:
        return
    raise _error_of(answer, status, f"{where}: the server answers {status}")


def _error_of(answer: Answer, status: int, message: str) -> LoaderError:
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        return CheckpointMissingError(f"{message}: no such file")
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED}:
        return RemoteRefusedError(f"{message}: access refused")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:
        return RemoteUnavailableError(message, wait_s=_retry_after_s(answer))
    return RemoteError(message)


def _retry_after_s(answer: Answer) -> float:
    text = answer.header("Retry-After") or ""
    return min(float(text), _LONGEST_WAIT_S) if re.fullmatch(r"\d{1,6}", text) else 0.0


def _total(answer: Answer, where: str) -> int | None:
    """Size of the whole file."""
    encoding = answer.header("Content-Encoding") or "identity"
    if encoding != "identity":
        raise RemoteError(f"{where}: the server sends it as {encoding}, though asked not to")
    if answer.status == HTTPStatus.OK:
        length = answer.header("Content-Length") or ""
        return int(length) if re.fullmatch(r"\d{1,18}", length) else None
    match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
    return None if match is None else int(match[3])


def _version(answer: Answer) -> str | None:
    return answer.header("ETag") or answer.header("Last-Modified")
