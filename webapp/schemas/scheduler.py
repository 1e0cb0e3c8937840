"""Bodies and queries of requests about scheduling."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from webapp.schemas.fields import Body, DecisionCursor, JobId, ModelName
from webapp.schemas.jobs import PageQuery


class ExplainRequest(Body):
    """A job that might come."""

    model: ModelName
    prompt_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 128


class DecisionsQuery(PageQuery):
    """Which of the router's decisions."""

    after: DecisionCursor | None = None
    job: JobId | None = None
    model: ModelName | None = None
