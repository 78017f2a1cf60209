"""From the body of a request to a wish for a job."""

from typing import Any

from pydantic import ValidationError

from api.routing import Call
from api.schemas import JobCreate
from domain.errors import FieldFault, InvalidInput
from domain.structured import pointer
from services.jobs import JobRequest


def read_wish(raw: Any) -> JobCreate:
    """One item of a batch. Raises InvalidInput."""
    try:
        return JobCreate.model_validate(raw)
    except ValidationError as fault:
        errors = fault.errors(include_url=False, include_context=False, include_input=False)
        faults = [
            FieldFault(pointer(error["loc"], raw), error["msg"].removeprefix("Value error, ")) for error in errors
        ]
        raise InvalidInput("the request is not valid", faults=faults) from None


def wish_of(body: JobCreate, call: Call) -> JobRequest:
    """The wish, with the ids of the call. Raises InvalidInput for what is not served yet."""
    if body.callback_url is not None:
        # A promise that nobody keeps would be worse than a refusal.
        fault = FieldFault("/callback_url", "webhooks are not available yet; poll the job or read its events")
        raise InvalidInput("the request is not valid", faults=[fault])
    return JobRequest(
        kind=body.kind,
        input=body.input,
        start_at=body.start_at,
        priority=body.priority,
        labels=body.labels,
        request_id=call.request_id,
        traceparent=call.services.tracing.current_traceparent(),
    )
