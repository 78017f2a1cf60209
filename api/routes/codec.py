"""The codec endpoint: lets operators read encrypted payloads in the Temporal UI."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads

from api.bodies import parse_body
from api.documents import encode
from api.routes.health import require_operator
from core.temporal import EncryptionCodec
from domain.errors import MalformedBody

Step = Callable[[Sequence[Payload]], Awaitable[list[Payload]]]

router: Final = APIRouter(prefix="/codec", tags=["operation"], include_in_schema=False)


def _codec(request: Request) -> EncryptionCodec:
    require_operator(request, request.app.state.services.settings)
    codec: EncryptionCodec = request.app.state.services.codec
    return codec


Codec = Annotated[EncryptionCodec, Depends(_codec)]


@router.post("/encode")
async def encode_payloads(request: Request, codec: Codec) -> Response:
    """Encrypt payloads, as Temporal's tools ask for it."""
    return await _convert(request, codec.encode)


@router.post("/decode")
async def decode_payloads(request: Request, codec: Codec) -> Response:
    """Decrypt payloads, as Temporal's tools ask for it."""
    return await _convert(request, codec.decode)


async def _convert(request: Request, step: Step) -> Response:
    document: Any = parse_body(await request.body())
    try:
        payloads = json_format.ParseDict(document, Payloads())
        converted = Payloads(payloads=await step(payloads.payloads))
    except (json_format.ParseError, ValueError, KeyError, TypeError, AttributeError):
        raise MalformedBody("these are not payloads of ours") from None
    return Response(encode(json_format.MessageToDict(converted)), media_type="application/json")
