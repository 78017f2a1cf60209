"""The one Temporal client, and the one way payloads are turned into bytes."""

import base64
import dataclasses
import gc
import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.bridge.proto.workflow_activation import RemoveFromCache, WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
    StorageDriverStoreContext,
)
from temporalio.runtime import Runtime
from temporalio.service import RPCError
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import Info

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


_SHARED: Final = PydanticPayloadConverter()


class _PayloadConverter(PydanticPayloadConverter):
    """The SDK makes one for every run and every task of a workflow: all of them share the validators of one."""

    def __init__(self) -> None:
        vars(self).update(vars(_SHARED))


def create_data_converter(payload_keys: str | None) -> DataConverter:
    """Speak pydantic on the wire; encrypted, failures too, where ``payload_keys`` is given."""
    converter = dataclasses.replace(pydantic_data_converter, payload_converter_class=_PayloadConverter)
    if payload_keys is None:
        return converter
    return dataclasses.replace(
        converter,
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


# What workflow modules import is deterministic by the rules of its room, or runs in activities only; importing it anew
# for every workflow would cost tens of milliseconds each.
_PASSED_THROUGH: Final = (
    "activities", "core", "domain", "gateways", "learning", "prompts", "rendering", "repositories", "workflows.options",
    "numpy", "pydantic", "pydantic_core", "sqlalchemy", "structlog", "orjson", "opentelemetry", "httpx",
)  # fmt: skip


_COLLECT_AFTER: Final = 200
_displaced = itertools.count(1)


def _count_displaced(act: WorkflowActivation) -> None:
    """Clean up behind runs that had to leave the cache before they were over.

    Each is hundreds of objects in cycles, tracebacks above all, and has grown old in the cache: the collector would
    look at them after thousands of such runs, and then stop the worker for seconds.
    """
    is_displaced = any(job.remove_from_cache.reason == RemoveFromCache.CACHE_FULL for job in act.jobs)
    if is_displaced and next(_displaced) % _COLLECT_AFTER == 0:
        gc.collect()


class _ContextFree(WorkflowInstance):
    """A workflow in its sandbox that answers by itself, and for nothing, which context a payload belongs to.

    The SDK asks three times and more for each payload, on its way in and out, and each time enters the sandbox for an
    answer that only a converter or a storage made for contexts would look at. Ours are not (``create_data_converter``).
    """

    def __init__(self, sandboxed: WorkflowInstance) -> None:
        self._sandboxed = sandboxed

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        completion = self._sandboxed.activate(act)
        _count_displaced(act)
        return completion

    def get_serialization_context(self, command_info: object) -> None:
        del command_info

    def get_external_store_context(self, command_info: object) -> StorageDriverStoreContext:
        del command_info
        return StorageDriverStoreContext(target=None)

    def get_info(self) -> Info:
        return self._sandboxed.get_info()

    def get_thread_id(self) -> int | None:
        return self._sandboxed.get_thread_id()


class _Sandbox(SandboxedWorkflowRunner):
    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return _ContextFree(super().create_instance(det))


def workflow_sandbox(*more: str) -> SandboxedWorkflowRunner:
    """How workers run workflow code; ``more`` names further modules to pass through.

    The workflow modules pass through as well: to execute a module again for every run of a workflow, and to keep that
    copy while the run is in the cache, took a quarter of a worker's time and most of its memory. What the sandbox would
    say about them is said by ruff (``banned-api``), by ``tests/workflows/test_purity.py``, and in replays.
    """
    return _Sandbox(restrictions=_restrictions("workflows", *more))


def strict_sandbox() -> SandboxedWorkflowRunner:
    """A sandbox that watches the workflow modules themselves; for replays, which go through all of them."""
    return SandboxedWorkflowRunner(restrictions=_restrictions())


def _restrictions(*more: str) -> SandboxRestrictions:
    return SandboxRestrictions.default.with_passthrough_modules(*_PASSED_THROUGH, *more)
