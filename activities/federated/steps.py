"""The steps of a federated cycle: open, close, aggregate, evaluate, publish, report.

Which round a cycle is in is in the database: a run that continues as new, is reset, or is retried, asks for it and goes
on in the middle of a round.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.federated.aggregates import Aggregate, Aggregator, FrozenRound
from activities.federated.ledger import spend
from activities.federated.report import CycleReport, Plotter
from activities.heartbeat import heartbeating
from activities.steps import StepKeeper, input_hash
from core.database import Database
from core.federated_metrics import CycleMetrics
from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import store_key
from domain.errors import CycleBusy, QuorumMissed
from domain.federated_registry import Action, ModelRuntime, Verdict, VersionStatus, finite, judge
from domain.federated_rounds import (
    FINAL,
    REPORT_STEP,
    ClosedRound,
    Decision,
    FederatedCycleInput,
    MadeVersion,
    OpenRound,
    RoundHistory,
    RoundState,
    cycle_steps,
    round_seconds,
    selection_size,
    step_of,
)
from domain.jobs import JobRef, WaitingKind, WaitingOn
from domain.model import Frozen
from learning.aggregation import AggregationRefused
from repositories.artifacts import ArtifactRepository
from repositories.federated.registry import RegistryRepository
from repositories.federated.rounds import RoundRepository
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from repositories.steps import StepRepository, StepResultRepository

_TURN: Final = timedelta(seconds=2)
_MOST_ROUNDS: Final = 10_000


class RoundInput(Frozen):
    """One round of a cycle, by its number."""

    job: JobRef
    number: int


class CycleInput(Frozen):
    """A cycle."""

    job: JobRef


class FederatedActivities:
    """Steps of ``federated.cycle``. Weights pass from store to store; the workflow learns numbers and ids."""

    def __init__(
        self,
        keeper: StepKeeper,
        database: Database,
        store: ArtifactStore,
        *,
        runtime: ModelRuntime,
        metrics: CycleMetrics,
        plot: Plotter,
        folder: Path,
    ) -> None:
        self._keeper = keeper
        self._database = database
        self._store = store
        self._runtime = runtime
        self._metrics = metrics
        self._report = CycleReport(store, plot)
        self._blobs = folder / "blobs"
        self._aggregator = Aggregator(keeper, store, metrics, self._blobs)

    # --- open and close -----------------------------------------------------------------------------

    @activity.defn(name="open_round")
    async def open_round(self, cycle: CycleInput) -> OpenRound | None:
        """The round that the cycle is in, opened where the one before is over; None where all are.

        Waits for its turn where another cycle is at work on the model.
        """
        job = cycle.job
        wanted = await self._wanted(job)
        async with self._database.tenant(job.tenant_id) as connection:
            earlier = await RoundRepository(connection).get_rounds(job.job_id)
        number = len(earlier) if earlier and earlier[-1].state not in FINAL else len(earlier) + 1
        limit = wanted.rounds + _given_up_before(earlier, job.attempt)
        if number > limit:
            return None
        if not earlier:
            async with self._keeper.effect(job) as connection:
                await StepRepository(connection).plan(job, cycle_steps(wanted.rounds), first_position=0)
        async with self._keeper.attempt(job, step_of(number, wanted.rounds)):
            async with self._keeper.effect(job) as connection:
                registry, rounds = RegistryRepository(connection), RoundRepository(connection)
                model = await registry.lock_model(wanted.model)
                if await registry.is_claimed_by_other(model, job.job_id):
                    raise CycleBusy("another cycle is at work on this model", retry_after=_TURN)
                await registry.claim(wanted.model, job.job_id)
                known = await rounds.get_rounds(job.job_id)
                if len(known) >= number:
                    return _open_round(known[-1], wanted, limit)
                row = await self._open(connection, job, wanted, model, known)
            return _open_round(row, wanted, limit)

    async def _open(
        self,
        connection: AsyncConnection,
        job: JobRef,
        wanted: FederatedCycleInput,
        model: AnyRow,
        known: Sequence[AnyRow],
    ) -> AnyRow:
        history = [_history(row) for row in known]
        number = len(known) + 1
        values = {
            "id": new_id(),
            "tenant_id": job.tenant_id,
            "job_id": job.job_id,
            "number": number,
            "model": wanted.model,
            "base_id": model.head_id,
            "goal": wanted.goal,
            "quorum": wanted.least,
            "selected": selection_size(wanted, history),
            "tags": list(wanted.tags),
            "plan": wanted.plan,
            "detail": {"attempt": job.attempt},
            "limits": {**wanted.limits.model_dump(), "lease_seconds": wanted.lease_seconds},
            # Fixed here and told to nobody: a repeated aggregation releases the same noise, never a second sample.
            "noise_secret": secrets.token_bytes(32),
        }
        row = await RoundRepository(connection).add_round(values, seconds=round_seconds(wanted, history))
        await self._finish(
            connection, job, wanted, number, "open", event="round.opened",
            data={"goal": row.goal, "quorum": row.quorum, "asked": row.selected, "deadline": row.deadline.isoformat()},
        )  # fmt: skip
        waiting = WaitingOn(
            kind=WaitingKind.TIMER,
            detail=f"round {number} waits for {row.goal} updates of participants",
            since=datetime.now(UTC),
            until=row.deadline,
        )
        await JobRepository(connection).record(
            job_id=job.job_id, attempt=job.attempt, event="job.waiting",
            data={"round": number}, values={"waiting_on": waiting.model_dump(mode="json")},
        )  # fmt: skip
        return row

    @activity.defn(name="close_round")
    async def close_round(self, round_: RoundInput) -> ClosedRound:
        """Freeze what was accepted. Below the quorum the round is abandoned and its base stays the head."""
        job, number = round_.job, round_.number
        wanted = await self._wanted(job)
        async with self._keeper.attempt(job, step_of(number, wanted.rounds)), self._keeper.effect(job) as connection:
            rounds = RoundRepository(connection)
            row = await rounds.lock_round(job.job_id, number)
            if row.state != RoundState.OPEN:
                return ClosedRound(state=RoundState(row.state), accepted=row.accepted)
            missed = await rounds.close_leases(row.id)
            seconds = (datetime.now(UTC) - row.opened_at).total_seconds()
            enough = row.accepted >= row.quorum
            state = RoundState.CLOSED if enough else RoundState.ABANDONED
            reason = None if enough else f"{row.accepted} updates, and {row.quorum} are the quorum"
            detail = {**row.detail, "missed": missed, "collect_seconds": round(seconds, 3)}
            await rounds.set_round(row.id, state=state, reason=reason, closed_at=datetime.now(UTC), detail=detail)
            await self._finish(
                connection, job, wanted, number, "collect", event="round.closed",
                data={"accepted": row.accepted, "goal": row.goal, "missed": missed, "state": state},
            )  # fmt: skip
            if not enough:
                await self._finish_rest(connection, job, wanted, number, ("aggregate", "evaluate", "publish"))
                self._metrics.rounds.labels("abandoned").inc()
            self._metrics.phases.labels("collect").observe(seconds)
            return ClosedRound(state=state, accepted=row.accepted)

    # --- aggregate ----------------------------------------------------------------------------------

    @activity.defn(name="aggregate_round")
    async def aggregate_round(self, round_: RoundInput) -> MadeVersion:
        """Make a candidate of what was accepted; the same candidate however often this runs."""
        job, number = round_.job, round_.number
        wanted = await self._wanted(job)
        async with heartbeating(), self._keeper.attempt(job, step_of(number, wanted.rounds)):
            frozen = await self._frozen(job, number)
            if frozen.row.state != RoundState.CLOSED:
                return MadeVersion(version_id=frozen.row.version_id)
            began = time.monotonic()
            try:
                made = await self._aggregator.make(job, wanted, frozen)
            except AggregationRefused as fault:
                await self._give_up(job, wanted, frozen.row, f"{fault.reason}: {fault.detail}")
                return MadeVersion(version_id=None)
            seconds = time.monotonic() - began
            self._metrics.phases.labels("aggregate").observe(seconds)
            return MadeVersion(version_id=await self._keep(job, wanted, frozen, made, seconds=seconds))

    async def _frozen(self, job: JobRef, number: int) -> FrozenRound:
        async with self._database.tenant(job.tenant_id) as connection:
            rounds = RoundRepository(connection)
            row = await rounds.get_round(job.job_id, number)
            registry = RegistryRepository(connection)
            model, base = await registry.get_model(row.model), await registry.get_version(row.base_id)
            return FrozenRound(row, model, base, await rounds.get_accepted(row.id))

    async def _keep(
        self, job: JobRef, wanted: FederatedCycleInput, frozen: FrozenRound, made: Aggregate, *, seconds: float
    ) -> UUID:
        row, base, updates = frozen.row, frozen.base, frozen.updates
        data = {
            "updates": len(updates),
            "left_out": made.left_out,
            "clipped": made.clipped,
            "examples": sum(update.examples for update in updates),
            "delta_norm": round(made.delta_norm, 6),
            "aggregate_seconds": round(seconds, 3),
            **({} if made.epsilon is None else {"epsilon": round(made.epsilon, 4)}),
        }
        async with self._keeper.effect(job) as connection:
            rounds = RoundRepository(connection)
            locked = await rounds.lock_round(job.job_id, row.number)
            if locked.state != RoundState.CLOSED:
                version_id: UUID = locked.version_id
                return version_id
            registry = RegistryRepository(connection)
            if wanted.aggregation.privacy is not None:
                await spend(registry, row.model, wanted.aggregation.privacy)
            version_id = await registry.add_version(
                job.tenant_id, row.model, parent_id=base.id, job_id=job.job_id, round=row.number, sha256=made.sha256,
                bytes=made.bytes, state_sha256=made.state_sha256, status=VersionStatus.CANDIDATE,
                metrics=_reported(updates),
            )  # fmt: skip
            detail = {**locked.detail, **data}
            await rounds.set_round(row.id, state=RoundState.AGGREGATED, version_id=version_id, detail=detail)
            await self._finish(
                connection, job, wanted, row.number, "aggregate", event="round.aggregated",
                data={**data, "sha256": made.sha256},
            )  # fmt: skip
            return version_id

    async def _give_up(self, job: JobRef, wanted: FederatedCycleInput, row: AnyRow, reason: str) -> None:
        """These updates give no model, now or ever: the base stays the head."""
        async with self._keeper.effect(job) as connection:
            rounds = RoundRepository(connection)
            locked = await rounds.lock_round(job.job_id, row.number)
            if locked.state != RoundState.CLOSED:
                return
            await rounds.set_round(row.id, state=RoundState.ABANDONED, reason=reason)
            await self._finish(
                connection, job, wanted, row.number, "aggregate", event="round.abandoned", data={"reason": reason}
            )
            await self._finish_rest(connection, job, wanted, row.number, ("evaluate", "publish"))
        self._metrics.rounds.labels("abandoned").inc()

    # --- evaluate and publish -----------------------------------------------------------------------

    @activity.defn(name="evaluate_round")
    async def evaluate_round(self, round_: RoundInput) -> None:
        """Measure the candidate, and its parent where nobody has, on samples that no participant has."""
        job, number = round_.job, round_.number
        wanted = await self._wanted(job)
        async with heartbeating(), self._keeper.attempt(job, step_of(number, wanted.rounds)):
            frozen = await self._frozen(job, number)
            row, base = frozen.row, frozen.base
            if row.state != RoundState.AGGREGATED:
                return
            began = time.monotonic()
            async with self._database.tenant(job.tenant_id) as connection:
                version = await RegistryRepository(connection).get_version(row.version_id)
            measured = {**version.metrics, **await self._measure(job, frozen.model, version)}
            # What is not finite cannot be stored as JSON: its name is, and the gate goes by it.
            metrics = finite(measured)
            not_finite = sorted(measured.keys() - metrics.keys())
            before = finite(dict(base.metrics) or await self._measure(job, frozen.model, base))
            seconds = time.monotonic() - began
            self._metrics.phases.labels("evaluate").observe(seconds)
            for name, value in metrics.items():
                self._metrics.evaluation.labels(name).set(value)
            async with self._keeper.effect(job) as connection:
                registry, rounds = RegistryRepository(connection), RoundRepository(connection)
                locked = await rounds.lock_round(job.job_id, number)
                if locked.state != RoundState.AGGREGATED:
                    return
                await registry.set_version(row.version_id, metrics=metrics)
                await registry.set_version(base.id, metrics=before)
                detail = {**locked.detail, "evaluate_seconds": round(seconds, 3), "not_finite": not_finite}
                await rounds.set_round(row.id, state=RoundState.EVALUATED, detail=detail)
                await self._finish(
                    connection, job, wanted, number, "evaluate", event="round.evaluated", data={"metrics": metrics}
                )

    async def _measure(self, job: JobRef, model: AnyRow, version: AnyRow) -> dict[str, float]:
        if model.holdout_sha256 is None:
            return {}
        weights, holdout = await self._fetch(job, version.sha256), await self._fetch(job, model.holdout_sha256)
        return await asyncio.to_thread(self._runtime.evaluate, model.family, weights, holdout)

    @activity.defn(name="publish_round")
    async def publish_round(self, round_: RoundInput) -> Decision:
        """Let the gate decide, and swap the head if it is still the one that the round started from."""
        job, number = round_.job, round_.number
        wanted = await self._wanted(job)
        async with self._keeper.attempt(job, step_of(number, wanted.rounds)), self._keeper.effect(job) as connection:
            rounds, registry = RoundRepository(connection), RegistryRepository(connection)
            row = await rounds.lock_round(job.job_id, number)
            if row.state != RoundState.EVALUATED:
                return Decision(state=RoundState(row.state), reason=row.reason or "")
            version = await registry.get_version(row.version_id)
            base = await registry.get_version(row.base_id)
            verdict = judge(
                wanted.gate,
                mine=version.metrics,
                parents=base.metrics,
                not_finite=row.detail.get("not_finite", ()),
            )
            if verdict.publish and not await registry.swap_head(row.model, expected=base.id, head=version.id):
                verdict = Verdict(publish=False, reason="the head was changed while the round was in progress")
            decision = await self._decide(connection, job, row, version, verdict)
            await self._finish(
                connection, job, wanted, number, "publish", event=f"round.{decision.state}",
                data={"version": version.number, "sha256": version.sha256, "reason": verdict.reason},
            )  # fmt: skip
        self._metrics.rounds.labels(decision.state.value).inc()
        if decision.state is RoundState.PUBLISHED:
            self._metrics.head.set(version.number)
        return decision

    async def _decide(
        self, connection: AsyncConnection, job: JobRef, row: AnyRow, version: AnyRow, verdict: Verdict
    ) -> Decision:
        registry = RegistryRepository(connection)
        state = RoundState.PUBLISHED if verdict.publish else RoundState.REJECTED
        status = VersionStatus.PUBLISHED if verdict.publish else VersionStatus.REJECTED
        head = (await registry.get_model(row.model)).head_id
        await registry.set_version(version.id, status=status, reason=None if verdict.publish else verdict.reason)
        await registry.decide(
            job.tenant_id, row.model, Action.PUBLISHED if verdict.publish else Action.REJECTED,
            version_id=version.id, head_before=row.base_id if verdict.publish else head, head_after=head,
            actor=f"job {job.job_id}, round {row.number}", reason=verdict.reason, data={"metrics": version.metrics},
        )  # fmt: skip
        await RoundRepository(connection).set_round(row.id, state=state, reason=verdict.reason)
        return Decision(state=state, reason=verdict.reason)

    # --- report -------------------------------------------------------------------------------------

    @activity.defn(name="report_cycle")
    async def report_cycle(self, cycle: CycleInput) -> None:
        """Write the result of the cycle down, with a plot where one can be drawn; others may have their turn.

        Raises QuorumMissed where no round counted.
        """
        job = cycle.job
        wanted = await self._wanted(job)
        async with heartbeating(), self._keeper.attempt(job, REPORT_STEP):
            digest = input_hash(REPORT_STEP)
            if await self._keeper.recall(job, REPORT_STEP, digest) is not None:
                return
            async with self._database.tenant(job.tenant_id) as connection:
                rows = await RoundRepository(connection).get_page(job.job_id, after=0, limit=_MOST_ROUNDS)
                model = await RegistryRepository(connection).get_model(wanted.model)
                head = await RegistryRepository(connection).get_version(model.head_id)
            counted = any(row.state != RoundState.ABANDONED for row in rows)
            # Without a round that counts this fails below and may be tried again: it makes nothing that would pile up.
            artifacts = await self._report.draw(job, wanted.model, rows) if counted else []
            result = self._report.result(wanted.model, head, rows, artifacts)
            async with self._keeper.effect(job) as connection:
                if await StepResultRepository(connection).get_or_none(job, REPORT_STEP, digest) is not None:
                    return
                for artifact in artifacts:
                    await ArtifactRepository(connection).add(artifact)
                await RegistryRepository(connection).release(wanted.model, job.job_id)
                await JobRepository(connection).set_result(job.job_id, result)
                if counted:
                    await self._keeper.finish_part(
                        connection, job, step=REPORT_STEP, part=REPORT_STEP, digest=digest, result=result,
                        event="cycle.reported", data={"head": head.number},
                    )  # fmt: skip
                    return
            raise QuorumMissed(f"none of {len(rows)} rounds had enough updates to count")

    # ------------------------------------------------------------------------------------------------

    async def _wanted(self, job: JobRef) -> FederatedCycleInput:
        async with self._database.tenant(job.tenant_id) as connection:
            return FederatedCycleInput.model_validate(await JobRepository(connection).get_input(job.job_id))

    async def _fetch(self, job: JobRef, sha256: str) -> Path:
        return await self._store.fetch(store_key(job.tenant_id, sha256), self._blobs)

    async def _finish(
        self,
        connection: AsyncConnection,
        job: JobRef,
        wanted: FederatedCycleInput,
        number: int,
        phase: str,
        *,
        event: str,
        data: Mapping[str, Any],
    ) -> None:
        """One phase of a round is over: keep it, advance the job, tell everybody."""
        await self._keeper.finish_part(
            connection, job, step=step_of(number, wanted.rounds), part=f"round-{number}/{phase}", digest="",
            result={}, event=event, data={"round": number, **data},
        )  # fmt: skip

    async def _finish_rest(
        self, connection: AsyncConnection, job: JobRef, wanted: FederatedCycleInput, number: int, phases: Sequence[str]
    ) -> None:
        for phase in phases:
            await self._finish(connection, job, wanted, number, phase, event="round.skipped", data={"phase": phase})


def _open_round(row: AnyRow, wanted: FederatedCycleInput, limit: int) -> OpenRound:
    return OpenRound(
        number=row.number,
        rounds=wanted.rounds,
        state=RoundState(row.state),
        goal=row.goal,
        deadline=row.deadline,
        last=row.number >= limit,
        full=row.accepted >= row.goal,
    )


def _given_up_before(rounds: Sequence[AnyRow], attempt: int) -> int:
    """How many rounds earlier attempts of the job have abandoned: a retry runs them again."""
    return sum(row.state == RoundState.ABANDONED and row.detail.get("attempt", 1) < attempt for row in rounds)


def _history(row: AnyRow) -> RoundHistory:
    return RoundHistory(
        handed_out=row.handed_out,
        accepted=row.accepted,
        goal=row.goal,
        seconds=((row.closed_at or row.opened_at) - row.opened_at).total_seconds(),
    )


def _reported(updates: Sequence[AnyRow]) -> dict[str, float]:
    """What participants say of their own training, averaged by examples; named so that nobody mistakes it for ours."""
    found: dict[str, float] = {}
    for name in ("loss", "accuracy"):
        known = [(update.examples, update.metrics[name]) for update in updates if name in update.metrics]
        total = sum(examples for examples, _ in known)
        if total:
            found[f"reported_{name}"] = sum(examples * value for examples, value in known) / total
    return finite(found)
