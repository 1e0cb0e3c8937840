"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from webapp.auth import bearer, caller, requires
from webapp.client_presence import departure_of_client
from webapp.incoming import read_body
from webapp.openai.requested import Requested, accept
from webapp.openai.stream import ChunkStream
from webapp.openai.translate import Wanted, wanted_of_chat, wanted_of_completion
from webapp.schemas.openai import ChatCompletionRequest, CompletionRequest
from webapp.services import WebServices, services

blueprint = Blueprint("openai_completions", __name__, url_prefix="/v1")

_STREAM_HEADERS = {
    "Cache-Control": "no-store",
    # nginx would hold chunks back until its buffer is full.
    "X-Accel-Buffering": "no",
}


@blueprint.post("/chat/completions")
@requires(Scope.JOBS_WRITE)
def post_chat() -> Response:
    """Continue a conversation."""
    return _answered(wanted_of_chat(read_body(ChatCompletionRequest)))


@blueprint.post("/completions")
@requires(Scope.JOBS_WRITE)
def post_completion() -> Response:
    """Continue prompts."""
    return _answered(wanted_of_completion(read_body(CompletionRequest)))


def _answered(wanted: Wanted) -> Response:
    web = services()
    # Before anything is accepted: who cannot be waited with is better refused.
    web.wait_slots.acquire()
    response = None
    try:
        requested = accept(web, wanted, caller())
        response = _streamed(web, requested) if wanted.streams else _whole(requested)
    finally:
        if response is None or not wanted.streams:
            web.wait_slots.release()
    if wanted.ignored:
        response.headers["X-Sllm-Ignored-Params"] = ", ".join(wanted.ignored)
    return response


def _whole(requested: Requested) -> Response:
    return jsonify(requested.envelope.whole(requested.wait(departure_of_client())))


def _streamed(web: WebServices, requested: Requested) -> Response:
    token = bearer()
    stream = ChunkStream(requested, lambda: web.keyring.recognise(token), departure_of_client())
    response = Response(iter(stream), mimetype="text/event-stream", headers=_STREAM_HEADERS)
    response.call_on_close(web.wait_slots.release)
    response.call_on_close(stream.close)
    return response
