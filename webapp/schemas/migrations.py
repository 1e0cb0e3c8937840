"""Bodies of the migrations resource."""

from __future__ import annotations

from webapp.schemas.fields import Body, GpuName, JobId


class MigrationRequest(Body):
    """Which job moves, and where to."""

    job_id: JobId
    #: `<node>.<index>` of the gpu that leads the target; left out: wherever there is room.
    to: GpuName | None = None
