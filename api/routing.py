"""What every route of the API has in common: strict bodies, no unknown query parameters, scopes, problems."""

import functools
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.routing import Match

from api.bodies import StrictRequest, require_json
from api.container import Services
from api.pointers import query_pointer
from api.schemas import Problem
from domain.errors import FieldFault, InvalidInput, ScopeMissing
from services.tenants import Caller, Scope

_log = structlog.get_logger(__name__)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
PREFIX: Final = "/api/v1"
LABEL_PREFIX: Final = "label."
TAKES_LABELS: Final = "x-label-filters"
"""Marks a route, in its ``openapi_extra``, that takes ``label.NAME`` query parameters."""


class ApiRoute(APIRoute):
    """A route that reads bodies strictly and refuses what it does not know."""

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's own handler."""
        handle = super().get_route_handler()
        known = frozenset(field.alias for field in self.dependant.query_params)
        labels = bool((self.openapi_extra or {}).get(TAKES_LABELS))
        has_body = self.body_field is not None

        async def handle_strictly(request: Request) -> Response:
            if request.scope["query_string"]:
                _refuse_unknown(request, known, labels=labels)
            if has_body:
                request = StrictRequest(request.scope, request.receive)
                require_json(request)
            return await handle(request)

        return handle_strictly


class Family(APIRouter):
    """The routes of one family, looked through only for paths that begin like one of them.

    FastAPI tries every route of every router in turn, and has to prepare for each: with all families that was a fifth
    of what a small request takes.
    """

    def __init__(self, tag: str, *, prefix: str = "") -> None:
        super().__init__(route_class=ApiRoute, prefix=prefix, tags=[tag])

    @functools.cached_property
    def heads(self) -> frozenset[str]:
        """What the paths of its routes begin with; by the first request all routes are there.

        Raises TypeError where one begins with a parameter, or is none of ours: it would never be found.
        """
        heads = {_head(route.path) if isinstance(route, APIRoute) else "{" for route in self.routes}
        if any("{" in head for head in heads):
            raise TypeError("every route of a family begins with a constant")
        return frozenset(heads)

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        """Whether one of the routes is meant."""
        path = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(PREFIX)
        if _head(path) not in self.heads:
            return Match.NONE, {}
        return super().matches(scope)


def _head(path: str) -> str:
    return path[1:].partition("/")[0]


def _refuse_unknown(request: Request, known: frozenset[str], *, labels: bool) -> None:
    seen: set[str] = set()
    faults = []
    for name, value in request.query_params.multi_items():
        if name not in known and not (labels and name.startswith(LABEL_PREFIX)):
            faults.append(FieldFault(query_pointer("query", name), "is not a parameter of this call"))
        elif name in seen:
            faults.append(FieldFault(query_pointer("query", name), "is given twice"))
        elif "\x00" in value:
            faults.append(FieldFault(query_pointer("query", name), "contains a NUL character"))
        seen.add(name)
    if faults:
        raise InvalidInput("the query is not valid", faults=faults)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the API: who calls, and everything there is to answer with."""

    request: Request
    caller: Caller
    services: Services

    @property
    def tenant_id(self) -> UUID:
        """The tenant on whose behalf everything happens."""
        return self.caller.tenant_id

    @property
    def request_id(self) -> str:
        """The id under which the log has this call."""
        return str(self.request.scope["state"]["request_id"])


class Needs(HTTPBearer):
    """The dependency of every route: the gate has verified the key, here its scope is checked."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(
            scheme_name="api_key", bearerFormat="lh_<prefix>_<secret>", description="An API key.", auto_error=False
        )
        self.scope = scope

    async def __call__(self, request: Request) -> Call:  # type: ignore[override]
        """The call. Raises ScopeMissing."""
        caller: Caller = request.scope["state"]["caller"]
        if self.scope not in caller.scopes:
            _log.warning("security.scope_missing", scope=self.scope.value, path=request.scope["path"])
            raise ScopeMissing(f"this call needs a key with the scope {self.scope.value}")
        return Call(request=request, caller=caller, services=request.app.state.services)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route: these problems, and the ones that every route may answer."""
    return {status: {"model": Problem, "description": _MEANING[status]} for status in sorted({*statuses, *_EVERYWHERE})}


_EVERYWHERE: Final = (401, 403, 422, 429, 500, 503)
_MEANING: Final = {
    400: "The request cannot be read.",
    401: "No key, or one that is not good.",
    403: "The key lacks the scope.",
    404: "There is no such thing, or it is somebody else's.",
    406: "Nothing fits the Accept header.",
    408: "The body took too long to arrive.",
    409: "The state forbids it.",
    410: "It takes no more.",
    413: "The body is too large.",
    415: "The media type is not served.",
    416: "The range lies outside.",
    422: "A value is not acceptable; errors names each.",
    429: "Too many requests.",
    500: "Something went wrong here.",
    503: "Something this leans on is away; try again.",
}
