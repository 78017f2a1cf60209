"""What the stand-ins of outside systems have in common."""

import socket

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateways.unruly import UnrulyService, transport_of


class Mirror(UnrulyService):
    """Tells how the connection is set that a request came over."""

    def application(self) -> Starlette:
        """One route."""
        return Starlette(routes=[Route("/", self._tell)])

    async def _tell(self, request: Request) -> JSONResponse:
        connection = transport_of(request.scope).get_extra_info("socket")
        return JSONResponse({"at_once": connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)})


async def test_answers_leave_at_once() -> None:
    """Nagle's algorithm would hold the end of each back until the caller has acknowledged its beginning."""
    async with Mirror(host="127.0.0.1", port=0) as mirror, httpx.AsyncClient() as client:
        assert (await client.get(mirror.origin)).json()["at_once"]
