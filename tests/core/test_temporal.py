import base64
import gc
import os
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.converter import DataConverter, WorkflowSerializationContext
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker

from activities.jobs import JobActivities
from core.database import Database
from core.ids import new_id
from core.temporal import EncryptionCodec, connect, create_codec, create_data_converter, workflow_sandbox
from domain.errors import TemporalUnavailable
from domain.jobs import JobRef
from services.stack.ports import free_port
from services.stack.temporal import EmbeddedTemporal
from tests.support.life import add_job, new_metrics
from tests.support.waiting import eventually
from tests.support.workflows import CrashWorkflow, HoldWorkflow

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def keys(*raw: bytes) -> str:
    """Keys as a setting holds them."""
    return ", ".join(base64.b64encode(key).decode() for key in raw)


def payload(text: str = "a secret") -> Payload:
    """Something to hide."""
    return Payload(metadata={"encoding": b"json/plain", "messageType": b"Secret"}, data=text.encode())


class TestEncryption:
    async def test_comes_back_as_it_was(self) -> None:
        codec = create_codec(keys(OLD))
        clear = [payload("one"), payload("two"), Payload()]
        assert await codec.decode(await codec.encode(clear)) == clear

    async def test_hides_data_and_metadata(self) -> None:
        (sealed,) = await create_codec(keys(OLD)).encode([payload()])
        wire = sealed.SerializeToString()
        assert b"secret" not in wire
        assert b"Secret" not in wire
        assert sealed.metadata["encoding"] == b"binary/encrypted"

    async def test_never_the_same_twice(self) -> None:
        codec = create_codec(keys(OLD))
        first, second = await codec.encode([payload(), payload()])
        assert first.data != second.data

    async def test_what_is_not_encrypted_passes(self) -> None:
        assert await create_codec(keys(OLD)).decode([payload()]) == [payload()]


class TestRotation:
    async def test_old_payloads_are_read_with_the_new_key_in_front(self) -> None:
        sealed = await create_codec(keys(OLD)).encode([payload()])
        assert await create_codec(keys(NEW, OLD)).decode(sealed) == [payload()]

    async def test_new_payloads_are_sealed_with_the_new_key(self) -> None:
        sealed = await create_codec(keys(NEW, OLD)).encode([payload()])
        assert await create_codec(keys(NEW)).decode(sealed) == [payload()]

    async def test_a_key_taken_away_too_soon_is_named_as_the_cause(self) -> None:
        sealed = await create_codec(keys(OLD)).encode([payload()])
        with pytest.raises(ValueError, match="LONGHAUL_PAYLOAD_KEYS"):
            await create_codec(keys(NEW)).decode(sealed)


class TestTampering:
    @pytest.mark.parametrize("place", [0, 12, -1])
    async def test_a_changed_byte_is_noticed(self, place: int) -> None:
        codec = create_codec(keys(OLD))
        (sealed,) = await codec.encode([payload()])
        data = bytearray(sealed.data)
        data[place] ^= 1
        sealed.data = bytes(data)
        with pytest.raises(ValueError, match="changed after it was encrypted"):
            await codec.decode([sealed])

    @pytest.mark.parametrize("length", [0, 5, 12, 20])
    async def test_a_shortened_payload_is_noticed(self, length: int) -> None:
        codec = create_codec(keys(OLD))
        (sealed,) = await codec.encode([payload()])
        sealed.data = sealed.data[:length]
        with pytest.raises(ValueError):  # noqa: PT011 - a nonce too short is the library's own complaint
            await codec.decode([sealed])

    async def test_another_key_under_the_same_name_opens_nothing(self) -> None:
        (sealed,) = await create_codec(keys(OLD)).encode([payload()])
        (other,) = await create_codec(keys(NEW)).encode([payload()])
        sealed.metadata["key"] = other.metadata["key"]
        with pytest.raises(ValueError, match="changed"):
            await create_codec(keys(NEW, OLD)).decode([sealed])


class TestKeys:
    @pytest.mark.parametrize("wrong", ["", "short", keys(b"x" * 16), keys(OLD) + ",", "not base64 at all!"])
    def test_wrong_ones_are_refused(self, wrong: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - base64 has its own words
            create_codec(wrong)

    def test_none_are_refused(self) -> None:
        with pytest.raises(ValueError, match="32 bytes"):
            EncryptionCodec([])


class TestConverter:
    async def test_speaks_pydantic_either_way(self) -> None:
        job = JobRef(job_id=new_id(), tenant_id=new_id(), kind="k")
        for converter in (create_data_converter(None), create_data_converter(keys(OLD))):
            assert await converter.decode(await converter.encode([job]), [JobRef]) == [job]

    def test_no_part_of_it_looks_at_contexts(self) -> None:
        """The sandbox gives none, see ``core.temporal``."""
        context = WorkflowSerializationContext(namespace="default", workflow_id="w")
        for converter in (create_data_converter(None), create_data_converter(keys(OLD))):
            told = converter.with_context(context)
            for part in ("payload_converter", "failure_converter", "payload_codec", "external_storage"):
                assert getattr(told, part) is getattr(converter, part)

    async def test_history_holds_nothing_readable(
        self, temporal_server: EmbeddedTemporal, database: Database, temporal: Client, tenant_id: object
    ) -> None:
        """Neither input nor memo nor the text of a failure; a client with the key reads all of them."""
        converter: DataConverter = create_data_converter(keys(os.urandom(32)))
        client = await connect(temporal_server.address, namespace="default", converter=converter, lazy=False)
        assert isinstance(tenant_id, type(new_id()))
        queue = f"sealed-{new_id()}"
        job = await add_job(database, tenant_id, kind="test.crash")
        doing = JobActivities(database, new_metrics())
        async with Worker(
            client,
            task_queue=queue,
            workflows=[CrashWorkflow],
            activities=[doing.begin_job],
            workflow_runner=workflow_sandbox("tests"),
        ):
            handle = await client.start_workflow(
                "Crash", job, id=job.workflow_id, task_queue=queue, memo={"request_id": "very-private"}
            )
            with pytest.raises(WorkflowFailureError) as failed:
                await handle.result()
        assert "failed without saying so" in str(failed.value.cause)
        history = (await temporal.get_workflow_handle(job.workflow_id).fetch_history()).to_json()
        for secret in ("very-private", "failed without saying so"):
            assert secret not in history
            assert base64.b64encode(secret.encode()).decode()[:20] not in history
        assert base64.b64encode(b"binary/encrypted").decode() in history


async def _has_begun(handle: WorkflowHandle[Any, Any]) -> bool:
    gate = await handle.query("gate")
    return bool(gate == [0, 1])


class TestSandbox:
    async def test_runs_that_had_to_leave_the_cache_leave_nothing(
        self, database: Database, temporal: Client, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are cycles, which are cleaned up without waiting for the collector's turn."""
        monkeypatch.setattr("core.temporal._COLLECT_AFTER", 1)
        doing, queue = JobActivities(database, new_metrics()), f"displaced-{new_id()}"
        gc.collect()
        gc.disable()
        try:
            async with Worker(
                temporal,
                task_queue=queue,
                workflows=[HoldWorkflow],
                activities=[doing.begin_job, doing.finish_job],
                workflow_runner=workflow_sandbox("tests"),
                max_cached_workflows=2,
                max_concurrent_workflow_tasks=2,
                workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(2),
            ):
                for _ in range(8):
                    job = await add_job(database, tenant_id, kind="test.hold")
                    handle = await temporal.start_workflow("Hold", job, id=job.workflow_id, task_queue=queue)
                    await eventually(partial(_has_begun, handle))
                alive = sum(type(one).__name__ == "HoldWorkflow" for one in gc.get_objects())
        finally:
            gc.enable()
        assert alive <= 4


class TestConnect:
    async def test_a_lazy_client_is_made_while_nobody_answers(self) -> None:
        client = await connect(f"127.0.0.1:{free_port()}", namespace="default", converter=create_data_converter(None))
        with pytest.raises(RuntimeError):
            await client.get_workflow_handle("x").describe(rpc_timeout=timedelta(seconds=1))

    async def test_an_eager_one_says_that_nobody_answers(self) -> None:
        port = free_port()
        with pytest.raises(TemporalUnavailable, match=f"127.0.0.1:{port}"):
            await connect(f"127.0.0.1:{port}", namespace="default", converter=create_data_converter(None), lazy=False)
