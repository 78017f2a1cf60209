"""The one mapping from whatever goes wrong to problem documents (RFC 9457).

A problem never repeats a value that was sent, and never shows SQL, a path or a stack: the log has those, under the
same request id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from math import ceil
from typing import Any, Final

import orjson
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.asgi import Scope
from api.pointers import query_pointer
from domain.errors import (
    TITLES,
    BodyTooLarge,
    DependencyError,
    FieldFault,
    IdempotencyKeyInvalid,
    InboxFull,
    InvalidInput,
    LonghaulError,
    MalformedBody,
    NotFound,
    RangeNotSatisfiable,
    RateLimited,
    RequestError,
    RoundClosed,
    ScopeMissing,
    StateError,
    Superseded,
    Unauthenticated,
    UnsupportedMediaType,
)
from domain.structured import pointer

_log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
_QUOTA_EXCEEDED: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_MOST_FAULTS: Final = 100

# The first class that fits decides; an error that is none of these is our own fault and says nothing.
_STATUS: Final[tuple[tuple[type[LonghaulError], HTTPStatus], ...]] = (
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (ScopeMissing, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (MalformedBody, HTTPStatus.BAD_REQUEST),
    (IdempotencyKeyInvalid, HTTPStatus.BAD_REQUEST),
    (BodyTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnsupportedMediaType, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (RangeNotSatisfiable, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE),
    (RateLimited, HTTPStatus.TOO_MANY_REQUESTS),
    (InboxFull, HTTPStatus.TOO_MANY_REQUESTS),
    (RoundClosed, HTTPStatus.GONE),
    (RequestError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (StateError, HTTPStatus.CONFLICT),
    (Superseded, HTTPStatus.CONFLICT),
    (DependencyError, HTTPStatus.SERVICE_UNAVAILABLE),
)
_HTTP_CODES: Final = {
    HTTPStatus.NOT_FOUND: ("E.NOT_FOUND", "there is nothing at this path"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("E.REQUEST.METHOD", "this path does not take the method; see Allow"),
    HTTPStatus.NOT_ACCEPTABLE: ("E.REQUEST.NOT_ACCEPTABLE", "nothing here fits the Accept header"),
    HTTPStatus.REQUEST_TIMEOUT: ("E.REQUEST.TIMEOUT", "the request did not arrive in time"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("E.REQUEST.TOO_LARGE", "the body is too large"),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("E.REQUEST.MEDIA_TYPE", "the media type is not served here"),
}
_RETRY_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """What is to be said about a fault, without the request it belongs to."""

    status: int
    code: str
    detail: str
    faults: Sequence[FieldFault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def document(self, *, instance: str, request_id: str | None) -> dict[str, Any]:
        """The members of the problem document."""
        shown: dict[str, Any] = {
            "type": f"urn:longhaul:error:{self.code}",
            "title": TITLES.get(self.code, self.code),
            "status": int(self.status),
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "request_id": request_id,
        }
        if self.faults:
            shown["errors"] = [{"pointer": fault.pointer, "message": fault.message} for fault in self.faults]
        return shown | dict(self.more)


def problem_of(fault: BaseException) -> Problem:
    """The problem for any exception; what is not known is our own fault and is not described."""
    match fault:
        case LonghaulError():
            return _of_domain(fault)
        case RequestValidationError():
            return _of_validation(fault)
        case HTTPException():
            return _of_http(fault)
        case _:
            return _INTERNAL


_INTERNAL: Final = Problem(
    HTTPStatus.INTERNAL_SERVER_ERROR, "E.INTERNAL", "something went wrong here; the request id leads to what it was"
)


def _of_domain(fault: LonghaulError) -> Problem:
    status = next((status for kind, status in _STATUS if isinstance(fault, kind)), None)
    if status is None:
        return _INTERNAL
    headers: dict[str, str] = {}
    more: dict[str, Any] = {}
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        seconds = _RETRY_SECONDS if fault.retry_after is None else ceil(fault.retry_after.total_seconds())
        headers["retry-after"] = str(max(seconds, 1))
    if isinstance(fault, RateLimited):
        more = {"type": _QUOTA_EXCEEDED, "violated-policies": ["default"]}
    if isinstance(fault, Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="longhaul"'
    if isinstance(fault, ScopeMissing):
        headers["www-authenticate"] = 'Bearer realm="longhaul", error="insufficient_scope"'
    headers |= getattr(fault, "headers", None) or {} if isinstance(fault, RangeNotSatisfiable) else {}
    faults = fault.faults if isinstance(fault, InvalidInput) else ()
    return Problem(status, fault.code, fault.detail, tuple(faults)[:_MOST_FAULTS], headers, more)


def _of_http(fault: HTTPException) -> Problem:
    if isinstance(fault.__cause__, LonghaulError | HTTPException):
        # FastAPI wraps whatever the reading of a body raises.
        return problem_of(fault.__cause__)
    code, detail = _HTTP_CODES.get(HTTPStatus(fault.status_code), ("E.REQUEST.INVALID", "the request is not valid"))
    headers = {name.lower(): value for name, value in (fault.headers or {}).items()}
    return Problem(fault.status_code, code, detail, headers=headers)


def _of_validation(fault: RequestValidationError) -> Problem:
    errors = fault.errors()
    if any(error["loc"][:1] == ("path",) for error in errors):
        # An id that cannot be one names nothing: the same answer as for one that happens not to exist.
        return _of_domain(NotFound("there is no such thing"))
    faults = tuple(_field_fault(error, fault.body) for error in errors[:_MOST_FAULTS])
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "E.REQUEST.INVALID", "the request is not valid", faults)


def _field_fault(error: Mapping[str, Any], body: Any) -> FieldFault:
    where, *rest = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    if where == "body":
        return FieldFault(pointer(tuple(rest), body), message)
    return FieldFault(query_pointer(str(where), *map(str, rest)), message)


def is_our_fault(fault: BaseException) -> bool:
    """Whether a person should look at this one: it was not foreseen."""
    return problem_of(fault) is _INTERNAL


def problem_response(problem: Problem, scope: Scope) -> Response:
    """The answer to a request as a problem document."""
    request_id = scope.get("state", {}).get("request_id")
    body = orjson.dumps(problem.document(instance=scope["path"], request_id=request_id))
    headers = {"cache-control": "no-store", **problem.headers}
    return Response(body, status_code=int(problem.status), headers=headers, media_type=MEDIA_TYPE)


async def answer_fault(request: Request, fault: Exception) -> Response:
    """What FastAPI calls for its own exceptions and Starlette's."""
    return problem_response(problem_of(fault), request.scope)
