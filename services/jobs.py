"""Starting jobs and acting on them. What returns from here is committed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from core.ids import new_id
from domain.approvals import Answer
from domain.errors import FieldFault, IdempotencyMismatch, InvalidInput, StateError
from domain.jobs import (
    TERMINAL,
    CommandAction,
    JobAction,
    JobRef,
    JobStatus,
    Labels,
    NewJob,
    WaitingKind,
    WaitingOn,
    check_action,
)
from repositories.commands import CommandRepository
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from repositories.steps import StepRepository
from repositories.tenants import IdempotencyRepository
from repositories.transitions import JobCompanion, JobTransitions, KeyClaim
from repositories.waits import standing_wait
from services.commands import FAST_PATH_LEASE, Command, CommandSender
from services.kinds import JobKind, KindRegistry, parse_input

_PAST_TOLERANCE: Final = timedelta(minutes=5)
_FURTHEST_START: Final = timedelta(days=366)
_IN_THE_PAST: Final = "lies in the past"
_DECISIONS: Final = frozenset({JobAction.APPROVE, JobAction.REJECT})


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A wish for a job as it came in, its envelope validated and its ``input`` still raw."""

    kind: str
    input: Any
    start_at: datetime | None = None
    priority: int = 3
    labels: Labels | None = None
    callback_url: str | None = None
    request_id: str | None = None
    traceparent: str | None = None

    def fingerprint(self) -> bytes:
        """A digest of everything the caller meant, independent of spelling and of the request's own ids."""
        start_at = None if self.start_at is None else _in_utc(self.start_at)
        meant = [self.kind, self.input, start_at, self.priority, self.labels, self.callback_url]
        return hashlib.sha256(orjson.dumps(meant, option=orjson.OPT_SORT_KEYS)).digest()


@dataclass(frozen=True, slots=True)
class Started:
    """A job that is written down; ``replayed`` where an earlier request with the same key had started it."""

    document: AnyRow
    replayed: bool


class JobService:
    """Use cases on jobs, for one tenant at a time."""

    def __init__(
        self,
        database: Database,
        kinds: KindRegistry,
        sender: CommandSender,
        *,
        max_running: int,
        keep_keys: timedelta,
    ) -> None:
        self._database = database
        self._kinds = kinds
        self._sender = sender
        self._max_running = max_running
        self._keep_keys = keep_keys
        self._transitions = JobTransitions(database)

    async def start(self, tenant_id: UUID, request: JobRequest, *, key: str | None) -> Started:
        """Write a job down, then try to hand it to Temporal at once.

        Once the transaction is committed the job cannot be lost; if Temporal is away, a dispatcher starts it later.
        Raises InvalidInput and IdempotencyMismatch.
        """
        kind = self._kinds.get(request.kind)
        new = await self._prepare(tenant_id, kind, request)
        fingerprint = request.fingerprint() if key is not None else b""
        impossible = None if request.start_at is None else _start_fault(request.start_at)
        if impossible is None:
            claim = None if key is None else KeyClaim(key, fingerprint, self._keep_keys)
            queued = await self._write(tenant_id, kind, new, claim)
            if queued is not None:
                document, command = queued
                if document.admitted_at is not None:
                    await self._sender.try_now(command)
                return Started(document, replayed=False)
        # A replay is welcome also when the time that was once accepted has passed.
        earlier = None if key is None else await self._earlier(tenant_id, key, fingerprint)
        if earlier is None:
            if impossible is not None:
                raise impossible
            # The time of the key was over between the two looks: now it is free.
            return await self.start(tenant_id, request, key=key)
        return Started(earlier, replayed=True)

    async def act(
        self, tenant_id: UUID, job_id: UUID, action: JobAction, *, comment: str | None = None, seen: str | None = None
    ) -> AnyRow:
        """Ask something of a job. Asking twice changes nothing. Raises NotFound and StateError.

        ``seen`` is the digest of what is approved or rejected, for kinds that show one.
        """
        async with self._database.tenant(tenant_id) as connection:
            repository = JobRepository(connection)
            kind = self._kinds.find((await repository.get_document(job_id)).kind)
            # By the kind's own tables first, because they are locked before the job: see Consent.
            wait = await kind.waits(connection, job_id) if kind and kind.waits else None
            facts: Mapping[str, Any] = {}
            if action in _DECISIONS:
                answer = Answer(approved=action is JobAction.APPROVE, comment=comment, seen=seen)
                facts = await self._consent(connection, kind, job_id, answer)
            row = await repository.get_for_update(job_id)
            shown = (row.waiting_on or {}).get("kind")
            behind_pause = row.paused and wait is not None and wait.kind is WaitingKind.APPROVAL
            check_action(
                action,
                status=JobStatus(row.status),
                paused=row.paused,
                awaiting_approval=shown == WaitingKind.APPROVAL or behind_pause,
            )
            command = await self._apply(connection, row, action, facts={"comment": comment, **facts}, wait=wait)
            document = await repository.get_document(job_id)
        if command is not None:
            await self._sender.try_now(command)
        return document

    # --- starting -----------------------------------------------------------------------------------

    async def _prepare(self, tenant_id: UUID, kind: JobKind, request: JobRequest) -> NewJob:
        parsed = parse_input(kind, request.input)
        if kind.check is not None:
            await kind.check(tenant_id, parsed)
        return NewJob(
            kind=kind.name,
            input=parsed.model_dump(mode="json"),
            task_queue=kind.task_queue,
            start_at=None if request.start_at is None else _in_utc(request.start_at),
            priority=request.priority,
            labels=request.labels or {},
            callback_url=request.callback_url,
            budget_usd=kind.budget(parsed),
            request_id=request.request_id,
            traceparent=request.traceparent,
        )

    async def _earlier(self, tenant_id: UUID, key: str, fingerprint: bytes) -> AnyRow | None:
        async with self._database.tenant(tenant_id) as connection:
            bound = await IdempotencyRepository(connection).get_or_none(key)
            if bound is None:
                return None
            if bound.request_hash != fingerprint:
                raise IdempotencyMismatch("this idempotency key was used with a different request")
            return await JobRepository(connection).get_document(bound.job_id)

    async def _write(
        self, tenant_id: UUID, kind: JobKind, new: NewJob, claim: KeyClaim | None
    ) -> tuple[AnyRow, Command] | None:
        """The job's document and the command that starts it; None where the key stands for another job."""
        later = new.start_at is not None and new.start_at > datetime.now(UTC)
        waiting_on = _first_wait(new.start_at, later=later, admitted=False)
        assert waiting_on is not None
        job = JobRef(
            job_id=new_id(),
            tenant_id=tenant_id,
            kind=kind.name,
            request_id=new.request_id,
            traceparent=new.traceparent,
        )
        command = Command(
            id=new_id(),
            job=job,
            action=CommandAction.START,
            args=start_args(kind, new.input),
            task_queue=kind.task_queue,
            priority=new.priority,
        )
        document = await self._transitions.queue(
            new,
            job_id=job.job_id,
            tenant_id=tenant_id,
            command_id=command.id,
            args=command.args,
            max_running=kind.max_running or self._max_running,
            waiting_on=waiting_on.model_dump(mode="json"),
            due=new.start_at if later else None,
            lease=FAST_PATH_LEASE,
            key=claim,
            accompany=_companion(kind, tenant_id, job.job_id, new),
        )
        return None if document is None else (document, command)

    # --- acting -------------------------------------------------------------------------------------

    async def _apply(
        self, connection: AsyncConnection, row: AnyRow, action: JobAction, *, facts: Mapping[str, Any],
        wait: WaitingOn | None,
    ) -> Command | None:  # fmt: skip
        match action:
            case JobAction.CANCEL:
                return await self._cancel(connection, row)
            case JobAction.RETRY:
                return await self._retry(connection, row)
            case JobAction.PAUSE | JobAction.RESUME:
                return await self._set_paused(connection, row, paused=action is JobAction.PAUSE, wait=wait)
            case JobAction.APPROVE | JobAction.REJECT:
                return await self._decide(connection, row, approved=action is JobAction.APPROVE, facts=facts)

    async def _cancel(self, connection: AsyncConnection, row: AnyRow) -> Command | None:
        repository, commands = JobRepository(connection), CommandRepository(connection)
        if row.cancel_requested_at is not None:
            return None
        if row.status == JobStatus.QUEUED:
            await commands.delete_of_job(row.id, CommandAction.START)
            await repository.record(
                job_id=row.id,
                event="job.canceled",
                values={"status": JobStatus.CANCELED, "finished_at": func.now(), "waiting_on": None},
            )
            if row.admitted_at is not None:
                await commands.release_waiting(row.tenant_id, row.kind)
        else:
            await repository.record(
                job_id=row.id, event="job.cancel_requested", values={"cancel_requested_at": func.now()}
            )
        if row.admitted_at is None:
            return None
        command = _command(row, CommandAction.CANCEL, {})
        await _add(connection, command, not_before=FAST_PATH_LEASE)
        return command

    async def _set_paused(
        self, connection: AsyncConnection, row: AnyRow, *, paused: bool, wait: WaitingOn | None
    ) -> Command | None:
        if row.paused == paused:
            return None
        now = datetime.now(UTC)
        if paused:
            detail = "paused on request; steps in progress finish"
            waiting: WaitingOn | None = WaitingOn(kind=WaitingKind.PAUSED, detail=detail, since=now)
        else:
            later = row.start_at is not None and row.start_at > now
            waiting = _first_wait(row.start_at, later=later, admitted=row.admitted_at is not None) or wait
        version = await JobRepository(connection).record(
            job_id=row.id,
            event="job.paused" if paused else "job.resumed",
            values={"paused": paused, "waiting_on": waiting.model_dump(mode="json") if waiting else None},
        )
        if row.admitted_at is None:
            return None
        return await add_signal(connection, row, "set_paused", paused, version)

    async def _consent(
        self, connection: AsyncConnection, kind: JobKind | None, job_id: UUID, answer: Answer
    ) -> Mapping[str, Any]:
        if kind is not None and kind.consent is not None:
            return await kind.consent(connection, job_id, answer)
        if answer.seen is not None:
            raise StateError("nothing about this job has a digest that could be approved")
        return {}

    async def _decide(
        self, connection: AsyncConnection, row: AnyRow, *, approved: bool, facts: Mapping[str, Any]
    ) -> Command:
        version = await JobRepository(connection).record(
            job_id=row.id,
            event="job.approved" if approved else "job.rejected",
            data=facts,
            values={"waiting_on": standing_wait},
        )
        # The comment stays in the event: workflow history carries no free text of people.
        return await add_signal(connection, row, "decide", approved, version)

    async def _retry(self, connection: AsyncConnection, row: AnyRow) -> Command | None:
        repository = JobRepository(connection)
        kind = self._kinds.get(row.kind)
        later = row.start_at is not None and row.start_at > datetime.now(UTC)
        admitted = not later and await repository.try_admit(
            row.tenant_id, row.kind, default_limit=kind.max_running or self._max_running
        )
        waiting = _first_wait(row.start_at, later=later, admitted=admitted)
        attempt = row.attempt + 1
        # What the older attempt was still to be told, or told again, must not reach the new one.
        for action in (CommandAction.CANCEL, CommandAction.SIGNAL):
            await CommandRepository(connection).delete_of_job(row.id, action)
        await StepRepository(connection).reopen(_ref(row, attempt=attempt))
        await repository.record(
            job_id=row.id,
            event="job.retried",
            data={"attempt": attempt},
            allowed=TERMINAL,
            values={
                "status": JobStatus.QUEUED,
                "attempt": attempt,
                "paused": False,
                "cancel_requested_at": None,
                "finished_at": None,
                "error": None,
                "error_code": None,
                "run_id": None,
                "admitted_at": func.now() if admitted else None,
                "waiting_on": waiting.model_dump(mode="json") if waiting else None,
            },
        )
        command = _command(row, CommandAction.START, start_args(kind, row.input), attempt=attempt)
        await _add(connection, command, not_before=row.start_at if later else FAST_PATH_LEASE if admitted else None)
        if not admitted:
            await CommandRepository(connection).wake_dispatchers()
        return command if admitted else None


def _companion(kind: JobKind, tenant_id: UUID, job_id: UUID, new: NewJob) -> JobCompanion | None:
    if kind.accompany is None:
        return None
    write, wish = kind.accompany, kind.input_model.model_validate(new.input)
    return lambda connection: write(connection, tenant_id, job_id, wish)


def start_args(kind: JobKind, raw_input: Mapping[str, Any]) -> dict[str, Any]:
    """What a dispatcher of any version needs in order to start the workflow."""
    parsed = kind.input_model.model_validate(raw_input)
    return {"workflow": kind.workflow, "summary": kind.summary(parsed)}


def capacity_wait() -> WaitingOn:
    """The job waits for a running slot of its tenant."""
    return WaitingOn(
        kind=WaitingKind.CAPACITY,
        detail="as many jobs of this kind are running as the tenant may have",
        since=datetime.now(UTC),
    )


def _first_wait(start_at: datetime | None, *, later: bool, admitted: bool) -> WaitingOn | None:
    if later:
        return WaitingOn(
            kind=WaitingKind.TIMER, detail="starts at its booked time", since=datetime.now(UTC), until=start_at
        )
    return None if admitted else capacity_wait()


def _in_utc(start_at: datetime) -> datetime:
    """The moment in UTC. Raises InvalidInput for one that the calendar of UTC does not have."""
    try:
        return start_at.astimezone(UTC)
    except OverflowError:
        raise InvalidInput("the start time is not possible", faults=[FieldFault("/start_at", _IN_THE_PAST)]) from None


def _start_fault(start_at: datetime) -> InvalidInput | None:
    now = datetime.now(UTC)
    message = None
    if start_at < now - _PAST_TOLERANCE:
        message = _IN_THE_PAST
    elif start_at > now + _FURTHEST_START:
        message = "lies more than a year ahead"
    if message is None:
        return None
    return InvalidInput("the start time is not possible", faults=[FieldFault("/start_at", message)])


def _ref(row: AnyRow, *, attempt: int | None = None) -> JobRef:
    return JobRef(
        job_id=row.id,
        tenant_id=row.tenant_id,
        kind=row.kind,
        attempt=attempt or row.attempt,
        request_id=row.request_id,
        traceparent=row.traceparent,
    )


async def add_signal(connection: AsyncConnection, row: AnyRow, signal: str, *args: Any) -> Command:
    """Have the workflow of a job, whose row is locked, told something; a sender takes it after the commit."""
    command = _command(row, CommandAction.SIGNAL, {"signal": signal, "args": list(args)})
    await _add(connection, command, not_before=FAST_PATH_LEASE)
    return command


def _command(row: AnyRow, action: CommandAction, args: dict[str, Any], *, attempt: int | None = None) -> Command:
    return Command(
        id=new_id(),
        job=_ref(row, attempt=attempt),
        action=action,
        args=args,
        task_queue=row.task_queue,
        priority=row.priority,
    )


async def _add(connection: AsyncConnection, command: Command, *, not_before: datetime | timedelta | None) -> None:
    await CommandRepository(connection).add(
        command_id=command.id,
        tenant_id=command.job.tenant_id,
        job_id=command.job.job_id,
        action=command.action,
        args=command.args,
        not_before=not_before,
    )
