"""The answer to a method that a path does not take: Allow names those of every route at that path."""

from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.errors import answer_fault


async def answer_wrong_method(request: Request, fault: Exception) -> Response:
    """405 with all of the methods that are possible here; a route knows only its own."""
    path = request.scope["path"]
    allowed = {
        method
        for route in iter_route_contexts(request.app.routes)
        if route.path_regex is not None and route.path_regex.match(path)
        for method in route.methods or ()
    }
    if allowed:
        fault = HTTPException(405, headers={"allow": ", ".join(sorted(allowed))})
    return await answer_fault(request, fault)
