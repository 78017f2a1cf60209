"""The one Temporal client, and the one way payloads are turned into bytes."""

import base64
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec
from temporalio.runtime import Runtime
from temporalio.service import RPCError
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from domain.errors import TemporalUnavailable

_ENCODING: Final = b"binary/encrypted"
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32

RPC_TIMEOUT: Final = timedelta(seconds=10)


class EncryptionCodec(PayloadCodec):
    """AES-256-GCM around every payload. The first key encrypts, all keys decrypt, so that keys can be rotated."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != _KEY_BYTES for key in keys):
            raise ValueError("LONGHAUL_PAYLOAD_KEYS needs base64 keys of 32 bytes each, separated by commas")
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._current = _key_id(keys[0])

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt each payload whole, metadata included."""
        return [self._encrypt(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt what this codec encrypted; anything else passes unchanged."""
        return [self._decrypt(payload) for payload in payloads]

    def _encrypt(self, payload: Payload) -> Payload:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, payload.SerializeToString(), None)
        return Payload(metadata={"encoding": _ENCODING, "key": self._current.encode()}, data=nonce + sealed)

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != _ENCODING:
            return payload
        cipher = self._ciphers.get(payload.metadata["key"].decode())
        if cipher is None:
            raise ValueError("the payload was encrypted with a key that is not in LONGHAUL_PAYLOAD_KEYS")
        try:
            opened = cipher.decrypt(payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:], None)
        except InvalidTag as fault:
            raise ValueError("the payload was changed after it was encrypted") from fault
        return Payload.FromString(opened)


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16]


def create_data_converter(payload_keys: str | None) -> DataConverter:
    """Speak pydantic on the wire; encrypted, failures too, where ``payload_keys`` is given."""
    if payload_keys is None:
        return pydantic_data_converter
    return dataclasses.replace(
        pydantic_data_converter,
        payload_codec=create_codec(payload_keys),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


def create_codec(payload_keys: str) -> EncryptionCodec:
    """The codec for a comma-separated list of base64 keys, newest first. Raises ValueError."""
    return EncryptionCodec([base64.b64decode(key.strip(), validate=True) for key in payload_keys.split(",")])


async def connect(
    address: str,
    *,
    namespace: str,
    converter: DataConverter,
    runtime: Runtime | None = None,
    interceptors: Iterable[Interceptor] = (),
    api_key: str | None = None,
    tls: bool = False,
    lazy: bool = True,
) -> Client:
    """A client that connects on its first call, so that a process starts also while Temporal is away.

    Workers need one that is not ``lazy``; then this raises TemporalUnavailable where nobody answers.
    """
    try:
        return await Client.connect(
            address,
            namespace=namespace,
            data_converter=converter,
            runtime=runtime,
            interceptors=list(interceptors),
            api_key=api_key,
            tls=tls,
            lazy=lazy,
        )
    except (RuntimeError, RPCError) as fault:
        raise TemporalUnavailable(f"Temporal does not answer at {address}") from fault


# The sandbox watches our workflow modules. What they import is deterministic by the rules of its room, or runs in
# activities only; importing it anew for every workflow would cost tens of milliseconds each.
_PASSED_THROUGH: Final = (
    "activities", "core", "domain", "gateways", "learning", "prompts", "rendering", "repositories", "workflows.options",
    "numpy", "pydantic", "pydantic_core", "sqlalchemy", "structlog", "orjson", "opentelemetry", "httpx",
)  # fmt: skip


def workflow_sandbox(*more: str) -> SandboxedWorkflowRunner:
    """How workflow code is run, in workers and in replays alike; ``more`` names further modules to pass through."""
    restrictions = SandboxRestrictions.default.with_passthrough_modules(*_PASSED_THROUGH, *more)
    return SandboxedWorkflowRunner(restrictions=restrictions)
