"""Bodies of the migrations resource."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from sllm_tasks.ids import id_pattern
from webapp.schemas.fields import Body


class MigrationRequest(Body):
    """Which job moves, and where to."""

    job_id: Annotated[str, StringConstraints(pattern=f"^{id_pattern('job')}$")]
    #: `<node>.<index>` of the gpu that leads the target; left out: wherever there is room.
    to: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}\.[0-9]{1,3}$")] | None = None
