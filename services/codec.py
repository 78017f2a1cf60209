"""Encrypted payloads for operators: the JSON that Temporal's UI and command line exchange with a codec endpoint."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads

from core.temporal import EncryptionCodec
from domain.errors import MalformedBody


class RemoteCodec:
    """Encrypts and decrypts payloads for tools that have no keys."""

    def __init__(self, codec: EncryptionCodec) -> None:
        self._codec = codec

    async def encode(self, document: Any) -> dict[str, Any]:
        """Encrypt. Raises MalformedBody."""
        return await _convert(document, self._codec.encode)

    async def decode(self, document: Any) -> dict[str, Any]:
        """Decrypt. Raises MalformedBody, also where the keys are not ours."""
        return await _convert(document, self._codec.decode)


async def _convert(document: Any, step: Callable[[Sequence[Payload]], Awaitable[list[Payload]]]) -> dict[str, Any]:
    try:
        given = json_format.ParseDict(document, Payloads())
        return json_format.MessageToDict(Payloads(payloads=await step(given.payloads)))
    except (json_format.ParseError, ValueError, KeyError, TypeError, AttributeError):
        raise MalformedBody("these are not payloads of ours") from None
