"""What every step does around its one effect: say that it runs, remember what it made, say what went wrong."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID
from weakref import WeakValueDictionary

import orjson
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import next_retry_at, problem, to_failure
from core.database import Database, Statement
from core.logging import bind_job
from domain.errors import DatabaseUnavailable, LonghaulError, NotReopened, Superseded
from domain.jobs import JobRef, WaitingKind, WaitingOn
from repositories.courses import CourseRepository
from repositories.jobs import JobRepository, measured_progress, settled_cost
from repositories.steps import FinishedPart, StepReader, StepRepository, StepResultRepository, StepWriter
from repositories.transitions import JobTransitions
from repositories.waits import shown_wait, standing_wait

_log = structlog.get_logger(__name__)

_REOPENING_TRIES: Final = 30
"""About a minute, in which the reconciler opens a job again whose workflow was reset."""


def input_hash(*parts: Any) -> str:
    """A digest of everything a step's result depends on; parts are plain JSON values."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


class StepKeeper:
    """The book-keeping of steps, shared by the activities of all families."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader = StepReader(database)
        self._transitions = JobTransitions(database)
        self._writer = StepWriter(database)
        self._beginnings: WeakValueDictionary[tuple[UUID, str], asyncio.Event] = WeakValueDictionary()

    @asynccontextmanager
    async def attempt(
        self, job: JobRef, step: str, *, part: str = "", digest: str = ""
    ) -> AsyncIterator[dict[str, Any] | None]:
        """One attempt at a step: mark it running; on failure record why and when it is tried again.

        Has what ``recall`` says of a ``part`` of it, in the same round trip. Domain errors leave as Temporal failures;
        others as ``E.INTERNAL``, and only the log says what they said.
        """
        with bind_job(job, step=step):
            try:
                yield await self._begin(job, step, part, digest)
            except ApplicationError:
                raise
            except Superseded as error:
                raise to_failure(await self._explain(job, error)) from error
            except LonghaulError as error:
                await self._record_trouble(job, step, error.code, error.detail, error)
                raise to_failure(error) from error
            except Exception as error:  # noqa: BLE001 - logged, and passed on as E.INTERNAL
                _log.exception("step.crashed")
                detail = f"unexpected {type(error).__name__}"
                await self._record_trouble(job, step, "E.INTERNAL", detail, None)
                # Not chained: what it says may quote sources, and Temporal keeps failures with their causes.
                raise ApplicationError(detail, type="E.INTERNAL") from None

    async def recall(self, job: JobRef, part: str, digest: str) -> dict[str, Any] | None:
        """What this part of the job has made before from the same input."""
        return await self._reader.get_result_or_none(job, part, digest)

    @asynccontextmanager
    async def effect(self, job: JobRef, *, course_id: UUID | None = None) -> AsyncIterator[AsyncConnection]:
        """The transaction of a step's effect, fenced: raises Superseded where the job has moved on without us.

        It locks the job, and a course before it where one is named: edits by hand lock them in this order.
        """
        async with self._database.tenant(job.tenant_id) as connection:
            if course_id is not None:
                await CourseRepository(connection).lock(course_id)
            if not await JobRepository(connection).lock_attempt(job):
                raise Superseded
            yield connection

    async def finish_part(
        self,
        connection: AsyncConnection,
        job: JobRef,
        *,
        step: str,
        part: str,
        digest: str,
        result: dict[str, Any],
        event: str,
        data: Mapping[str, Any] | None = None,
        advances: bool = True,
    ) -> bool:
        """Keep a part's result, advance its step and tell everybody, all in the caller's transaction.

        Not every part ``advances`` its step: several may be one unit of its progress, which the last completes.
        False, and nothing done, where another run of the same part was first.
        """
        if not await StepResultRepository(connection).add(job, part, digest, result):
            return False
        if advances:
            await StepRepository(connection).advance(job, step)
        await JobRepository(connection).record(
            job_id=job.job_id,
            attempt=job.attempt,
            event=event,
            data={"step": step, **(data or {})},
            values={"progress": measured_progress, "waiting_on": standing_wait, **settled_cost},
        )
        return True

    async def finish_artifact(self, job: JobRef, part: FinishedPart, *more: Statement) -> bool:
        """As ``effect`` and ``finish_part`` for a part that makes one artifact, in a single round trip.

        ``more`` are statements of the same transaction, which have to be harmless where they change nothing any more.
        False, and nothing done, where another run of the same part was first.
        """
        return await self._writer.finish(job, part, *more)

    async def _begin(self, job: JobRef, step: str, part: str, digest: str) -> dict[str, Any] | None:
        # Of a step in many parts nearly every part finds it running; only the first has something to say.
        key, attempt = (job.job_id, step), activity.info().attempt
        running, kept = await self._reader.look(job, step, attempt=attempt, part=part, input_hash=digest)
        if not running and key in self._beginnings:
            # Parts that start together wait for the first of them here, and not in the database for the row of the
            # job, each with a connection of the pool in hand.
            await self._beginnings[key].wait()
            running, kept = await self._reader.look(job, step, attempt=attempt, part=part, input_hash=digest)
        if not running:
            said = self._beginnings[key] = asyncio.Event()
            try:
                await self._writer.begin(job, step, attempt=attempt)
            finally:
                said.set()
        return kept

    async def _explain(self, job: JobRef, error: Superseded) -> LonghaulError:
        """Whether this is a leftover of the past, or the beginning of a run that an operator has reset."""
        info = activity.info()
        if info.attempt > _REOPENING_TRIES:
            return error
        # Parts of a job in child workflows have runs of their own, which say nothing about the job's.
        run_id = info.workflow_run_id if info.workflow_id == job.workflow_id else None
        return NotReopened() if await self._transitions.was_reset(job, run_id=run_id or "") else error

    async def _record_trouble(
        self, job: JobRef, step: str, code: str, detail: str, error: LonghaulError | None
    ) -> None:
        again = next_retry_at(error)
        attempt = activity.info().attempt
        try:
            async with self.effect(job) as connection:
                await StepRepository(connection).trouble(
                    job, step, attempt=attempt, error=problem(code, detail), next_retry_at=again
                )
                waiting = _retry_wait(step, code, again)
                await JobRepository(connection).record(
                    job_id=job.job_id,
                    attempt=job.attempt,
                    event="step.failed" if again is None else "step.retrying",
                    data={"step": step, "attempt": attempt, "code": code, "next_retry_at": again and again.isoformat()},
                    values={"waiting_on": shown_wait(waiting)} if waiting else {},
                )
        except (DatabaseUnavailable, Superseded) as fault:
            # The failure itself still reaches Temporal; only its mirror in our tables has to wait for the next one.
            _log.warning("step.trouble_not_recorded", fault=fault.detail, code=code)


def _retry_wait(step: str, code: str, again: datetime | None) -> WaitingOn | None:
    if again is None:
        return None
    return WaitingOn(kind=WaitingKind.RETRY, detail=f"{step} failed with {code}", since=datetime.now(UTC), until=again)
