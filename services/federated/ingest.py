"""Updates come in: judged before they are accepted, and accepted only once they are on disk and committed.

The body goes to a file of its own while it is counted and hashed; its header is looked at as soon as it is there. Never
more than one block of it is in memory.
"""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from core.federated_metrics import IngestMetrics
from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import store_key
from domain.errors import BodyTooLarge, RoundClosed, UpdateConflict, UpdateRefused
from domain.federated_protocol import DURATION_SECONDS, EXAMPLES, LOSS
from domain.federated_rounds import goal_reached
from domain.jobs import CommandAction, JobRef
from learning.weights import MAX_HEADER_BYTES, TensorSpec, WeightsRefused, check, read_metadata
from repositories.commands import CommandRepository
from repositories.federated.rounds import RoundRepository
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from services.commands import FAST_PATH_LEASE, Command, CommandSender
from services.federated.participants import ParticipantService, largest_update
from services.tenants import Caller

_log = structlog.get_logger(__name__)

GOAL_SIGNAL: Final = "goal_reached"
_LENGTH_BYTES: Final = 8
_TENTHS: Final = 10
_EXAMPLES_DIGITS: Final = 20
_MOST_REPORTED: Final = 1e12


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the server says about an update; ``replayed`` where it was accepted before."""

    lease_id: UUID
    status: str
    sha256: str | None
    replayed: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Spooled:
    sha256: str
    length: int


class UpdateService:
    """Takes updates, for one tenant at a time."""

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        participants: ParticipantService,
        *,
        sender: CommandSender,
        metrics: IngestMetrics,
        folder: Path,
    ) -> None:
        self._database = database
        self._store = store
        self._participants = participants
        self._sender = sender
        self._metrics = metrics
        self._folder = folder

    async def submit(
        self, caller: Caller, lease_id: UUID, chunks: AsyncIterator[bytes], *, sha256: str, token: str | None
    ) -> Receipt:
        """Accept an update, once; the same again is the same receipt.

        Raises NotFound, RoundClosed, UpdateConflict where another was accepted, BodyTooLarge, and UpdateRefused with
        the reason for one that is not acceptable.
        """
        async with self._database.tenant(caller.tenant_id) as connection:
            context = await self._participants.own_lease(connection, caller, lease_id, token)
        if context.lease_state == "accepted":
            return _again(context, sha256)
        if context.closed:
            raise RoundClosed(_why_closed(context))
        file = self._folder / f"{new_id()}.safetensors"
        try:
            try:
                spooled = await self._spool(chunks, file, most=largest_update(context.model_bytes))
                values = await self._judge(context, file, spooled, sha256)
            except UpdateRefused as fault:
                await self._refuse(context, fault)
                raise
            await self._store.put_file(caller.tenant_id, file)
        finally:
            await asyncio.to_thread(file.unlink, missing_ok=True)
        return await self._accept(caller.tenant_id, context, values)

    async def receipt(self, caller: Caller, lease_id: UUID) -> Receipt:
        """What is known of the update of a lease. Raises NotFound."""
        async with self._database.tenant(caller.tenant_id) as connection:
            context = await self._participants.own_lease(connection, caller, lease_id, None)
        return Receipt(lease_id, context.lease_state, context.update_sha256, reason=context.lease_reason)

    # --- the body -----------------------------------------------------------------------------------

    async def _spool(self, chunks: AsyncIterator[bytes], file: Path, *, most: int) -> _Spooled:
        await asyncio.to_thread(file.parent.mkdir, parents=True, exist_ok=True)
        digest, length, head = hashlib.sha256(), 0, b""
        with await asyncio.to_thread(file.open, "wb") as target:
            async for chunk in chunks:
                length += len(chunk)
                if length > most:
                    self._metrics.refused.labels("too_large").inc()
                    raise BodyTooLarge(f"an update of this model has at most {most} bytes")
                if len(head) < _LENGTH_BYTES:
                    head += chunk[: _LENGTH_BYTES - len(head)]
                    _check_head(head)
                digest.update(chunk)
                await _write(target, chunk)
        return _Spooled(digest.hexdigest(), length)

    async def _judge(self, context: AnyRow, file: Path, spooled: _Spooled, sha256: str) -> dict[str, Any]:
        """What is to be written down about an acceptable update. Raises UpdateRefused."""
        if not hmac.compare_digest(spooled.sha256, sha256):
            raise UpdateRefused("the body is not what Content-Digest says", reason="digest")
        key = store_key(context.tenant_id, context.base_sha256)
        parent = await self._store.fetch(key, self._folder / "blobs")
        limits = context.limits
        schema = {name: TensorSpec(dtype, tuple(shape)) for name, (dtype, shape) in context.schema.items()}

        def look() -> dict[str, Any]:
            checked = check(file, schema=schema, parent=parent, max_norm=limits.get("max_norm"))
            said = read_metadata(file)
            return {
                "sha256": spooled.sha256,
                "bytes": spooled.length,
                "norm": checked.norm,
                "examples": _examples(said, limits["max_examples"]),
                "metrics": _numbers(said),
            }

        try:
            return await asyncio.to_thread(look)
        except WeightsRefused as fault:
            raise UpdateRefused(fault.detail, reason=fault.reason.value) from fault

    # --- the decision -------------------------------------------------------------------------------

    async def _refuse(self, context: AnyRow, fault: UpdateRefused) -> None:
        self._metrics.refused.labels(fault.reason).inc()
        _log.warning("update.refused", lease_id=str(context.lease_id), reason=fault.reason)
        async with self._database.tenant(context.tenant_id) as connection:
            await RoundRepository(connection).refuse(context.lease_id, context.id, f"{fault.reason}: {fault.detail}")

    async def _accept(self, tenant_id: UUID, context: AnyRow, values: dict[str, Any]) -> Receipt:
        command = None
        async with self._database.tenant(tenant_id) as connection:
            counted = await RoundRepository(connection).accept(context, values)
            if counted is not None:
                await _tell_progress(connection, context, counted)
                if goal_reached(counted.accepted, counted.goal):
                    command = await _tell_goal(connection, context, counted)
        if counted is None:
            # Somebody was faster: the same participant again, the last one of the round, or its deadline.
            async with self._database.tenant(tenant_id) as connection:
                context = await RoundRepository(connection).get_context(context.lease_id)
            if context.lease_state == "accepted":
                return _again(context, values["sha256"])
            raise RoundClosed(_why_closed(context))
        self._metrics.leases.labels("accepted").inc()
        self._metrics.bytes.observe(values["bytes"])
        if command is not None:
            await self._sender.try_now(command)
        return Receipt(context.lease_id, "accepted", values["sha256"])


async def _tell_progress(connection: AsyncConnection, context: AnyRow, counted: AnyRow) -> None:
    """The job's watchers hear of every tenth of the goal."""
    if counted.accepted * _TENTHS // counted.goal > (counted.accepted - 1) * _TENTHS // counted.goal:
        data = {"round": counted.number, "accepted": counted.accepted, "goal": counted.goal}
        await JobRepository(connection).record(job_id=context.job_id, event="round.progress", data=data)


async def _tell_goal(connection: AsyncConnection, context: AnyRow, counted: AnyRow) -> Command:
    """The one signal of a round, as durable as the update itself."""
    command = Command(
        id=new_id(),
        job=JobRef(
            job_id=context.job_id,
            tenant_id=context.tenant_id,
            kind=context.kind,
            attempt=context.attempt,
            request_id=context.request_id,
            traceparent=context.traceparent,
        ),
        action=CommandAction.SIGNAL,
        args={"signal": GOAL_SIGNAL, "args": [counted.number]},
        task_queue=context.task_queue,
        priority=context.priority,
    )
    await CommandRepository(connection).add(
        command_id=command.id,
        tenant_id=context.tenant_id,
        job_id=context.job_id,
        action=command.action,
        args=command.args,
        not_before=FAST_PATH_LEASE,
    )
    return command


def _again(context: AnyRow, sha256: str) -> Receipt:
    if context.update_sha256 != sha256:
        raise UpdateConflict("another update was accepted under this lease, and it stands")
    return Receipt(context.lease_id, "accepted", context.update_sha256, replayed=True)


def _why_closed(context: AnyRow) -> str:
    if context.state == "open" and not context.closed:
        return "the round has all the updates it needs"
    return f"the round is {context.state}" if context.state != "open" else "the cycle of the round has ended"


def _check_head(head: bytes) -> None:
    """A header that claims too much is refused before any of it is read."""
    if len(head) == _LENGTH_BYTES and (length := int.from_bytes(head, "little")) > MAX_HEADER_BYTES:
        detail = f"the header has {length} bytes, more than {MAX_HEADER_BYTES}"
        raise UpdateRefused(detail, reason="header")


async def _write(target: BinaryIO, chunk: bytes) -> None:
    write: Callable[[bytes], int] = target.write
    await asyncio.to_thread(write, chunk)


def _examples(said: dict[str, str], most: int) -> int:
    text = said.get(EXAMPLES, "")
    # All of the text is judged before it is read: what is accepted is what was compared.
    plain = text.isascii() and text.isdecimal() and len(text) <= _EXAMPLES_DIGITS
    if not plain or not 1 <= int(text) <= most:
        raise UpdateRefused(f"the metadata {EXAMPLES} must be a number from 1 to {most}", reason="examples")
    return int(text)


def _numbers(said: dict[str, str]) -> dict[str, float]:
    """Loss and duration, as far as they are numbers that can be averaged.

    They are shown, and never decide anything but a custom gate.
    """
    found = {}
    for name in (LOSS, DURATION_SECONDS, "accuracy"):
        try:
            value = float(said.get(name, "nan"))
        except ValueError:
            continue
        if abs(value) <= _MOST_REPORTED:
            found[name] = value
    return found
