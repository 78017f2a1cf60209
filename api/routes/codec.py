"""The codec endpoint: lets operators read encrypted payloads in the Temporal UI."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from api.bodies import parse_body
from api.documents import encode
from api.routes.health import require_operator
from services.codec import RemoteCodec

router: Final = APIRouter(prefix="/codec", tags=["operation"], include_in_schema=False)


def _codec(request: Request) -> RemoteCodec:
    require_operator(request, request.app.state.services.settings)
    codec: RemoteCodec = request.app.state.services.codec
    return codec


Codec = Annotated[RemoteCodec, Depends(_codec)]


@router.post("/encode")
async def encode_payloads(request: Request, codec: Codec) -> Response:
    """Encrypt payloads, as Temporal's tools ask for it."""
    return Response(encode(await codec.encode(parse_body(await request.body()))), media_type="application/json")


@router.post("/decode")
async def decode_payloads(request: Request, codec: Codec) -> Response:
    """Decrypt payloads, as Temporal's tools ask for it."""
    return Response(encode(await codec.decode(parse_body(await request.body()))), media_type="application/json")
