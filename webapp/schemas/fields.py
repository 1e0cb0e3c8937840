"""Kinds of field that several bodies share."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from sllm_tasks.ids import id_pattern
from sllm_tasks.limits import TENANT_NAME, TENANT_NAME_IN_WORDS


class Body(BaseModel):
    """A request body: unknown fields are refused, nothing is converted, no number is NaN or infinite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def _printable(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain U+0000")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must not contain lone surrogates")
    return value


#: Any text; its length is bounded by the size of the body.
Text = Annotated[str, AfterValidator(_printable)]
ShortText = Annotated[Text, StringConstraints(min_length=1, max_length=256)]

_MODEL_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
_NODE_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
_USER_NAME: Final = r"^[a-z0-9][a-z0-9._@-]{0,62}$"
_GPU_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}\.[0-9]{1,3}$"
_JOB_ID: Final = f"^{id_pattern('job')}$"
_OPERATION_ID: Final = f"^{id_pattern('op')}$"
_DELIVERY_ID: Final = f"^{id_pattern('msg')}$"
_DECISION_ID: Final = f"^{id_pattern('decision')}$"

#: Names of models: they appear in URLs and in keys of the live state.
ModelName = Annotated[str, StringConstraints(pattern=_MODEL_NAME)]
NodeName = Annotated[str, StringConstraints(pattern=_NODE_NAME)]
TenantName = Annotated[str, StringConstraints(pattern=TENANT_NAME)]
GpuName = Annotated[str, StringConstraints(pattern=_GPU_NAME)]
JobId = Annotated[str, StringConstraints(pattern=_JOB_ID)]
UserName = Annotated[str, StringConstraints(pattern=_USER_NAME)]
#: Cursors of lists: where the page before has ended.
JobCursor = Annotated[str, StringConstraints(pattern=_JOB_ID)]
OperationCursor = Annotated[str, StringConstraints(pattern=_OPERATION_ID)]
DeliveryCursor = Annotated[str, StringConstraints(pattern=_DELIVERY_ID)]
DecisionCursor = Annotated[str, StringConstraints(pattern=_DECISION_ID)]

#: What a client is told instead of the pattern that its text does not meet.
WORDS_OF_PATTERN: Final = {
    _MODEL_NAME: "1 to 128 of A-Z a-z 0-9 . _ : / - beginning with a letter or a digit",
    _NODE_NAME: "1 to 63 of A-Z a-z 0-9 _ - beginning with a letter or a digit",
    TENANT_NAME: TENANT_NAME_IN_WORDS,
    _USER_NAME: "1 to 63 of a-z 0-9 . _ @ - beginning with a letter or a digit",
    _GPU_NAME: "a gpu as NODE.INDEX, such as node0.0",
    _JOB_ID: "the id of a job: job_ and 26 of a-z 0-9",
    _OPERATION_ID: "the id of an operation, such as the last_id of a page",
    _DELIVERY_ID: "the id of a delivery, such as the last_id of a page",
    _DECISION_ID: "the id of a decision, such as the last_id of a page",
}
