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


async def wish_of(body: JobCreate, call: Call) -> JobRequest:
    """The wish, with the ids of the call. Raises InvalidInput for a callback_url that nothing may be sent to."""
    if body.callback_url is not None:
        await call.services.webhooks.check_callback(call.tenant_id, body.callback_url)
    return JobRequest(
        kind=body.kind,
        input=body.input,
        start_at=body.start_at,
        priority=body.priority,
        labels=body.labels,
        callback_url=body.callback_url,
        request_id=call.request_id,
        traceparent=call.services.tracing.current_traceparent(),
    )
