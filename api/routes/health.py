"""Alive, ready, measured: for probes and operators, outside the versioned contract."""

import hmac
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from api.container import Services
from api.documents import encode
from api.errors import Problem, problem_response
from core.metrics import CONTENT_TYPE, render
from core.settings import Settings
from domain.errors import NotFound, Unauthenticated

router: Final = APIRouter(tags=["operation"])


@router.get("/healthz", include_in_schema=True)
async def is_alive() -> dict[str, str]:
    """Whether the process answers at all; asks nobody else."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "Not ready; faults names the parts."}})
async def is_ready(request: Request) -> Response:
    """Whether database, Temporal and workers are there."""
    services: Services = request.app.state.services
    faults = await services.readiness.faults()
    if not faults:
        return Response(encode({"status": "ready"}), media_type="application/json")
    more: dict[str, Any] = {"status": 503, "title": "Not ready", "faults": faults}
    detail = "not ready: " + ", ".join(sorted(faults))
    problem = Problem(503, "E.NOT_READY", detail, headers={"retry-after": "1"}, more=more)
    return problem_response(problem, request.scope)


@router.get("/metrics")
async def measure(request: Request) -> Response:
    """What this process measures, for Prometheus."""
    services: Services = request.app.state.services
    require_operator(request, services.settings)
    return Response(await render(services.registry, services.sdk_metrics_url), media_type=CONTENT_TYPE)


def require_operator(request: Request, settings: Settings) -> None:
    """Let through who bears the operator's token; without one set, anybody in development and nobody in production.

    Raises Unauthenticated and NotFound.
    """
    if settings.metrics_token is None:
        if settings.production:
            raise NotFound("there is nothing at this path")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    wanted = settings.metrics_token.get_secret_value()
    same = hmac.compare_digest(given.strip().encode(), wanted.encode())
    if scheme.lower() != "bearer" or not same:
        raise Unauthenticated("the operator's token is missing or wrong")
