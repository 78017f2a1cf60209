"""Runs of evaluation, their samples, and the run that a new one is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import NotFound
from domain.evaluation import SampleResult, Verdict
from domain.jobs import JobRef
from repositories.rows import AnyRow
from repositories.tables import evaluation_cases, evaluation_runs


@dataclass(frozen=True, slots=True)
class Subject:
    """What a run measures; runs with the same checksum, provider and model can be compared."""

    golden_set: str
    checksum: str
    provider: str
    model: str


class EvaluationRepository:
    """Evaluations of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def open(self, job: JobRef, subject: Subject, *, samples: int) -> None:
        """Write a run down. One that is there already measures this from now on, as after a new golden set."""
        values = {
            "golden_set": subject.golden_set,
            "checksum": subject.checksum,
            "provider": subject.provider,
            "model": subject.model,
            "samples": samples,
        }
        statement = pg_insert(evaluation_runs).values(tenant_id=job.tenant_id, job_id=job.job_id, **values)
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["tenant_id", "job_id"], set_=values)
        )

    async def get_run(self, job_id: UUID) -> AnyRow:
        """A run. Raises NotFound."""
        query = select(evaluation_runs).where(evaluation_runs.c.job_id == job_id)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such evaluation")
        return found

    async def get_last_good_or_none(self, subject: Subject, *, besides: UUID) -> AnyRow | None:
        """The good run over the same cases, provider and model that was judged last."""
        query = (
            select(evaluation_runs)
            .where(
                evaluation_runs.c.checksum == subject.checksum,
                evaluation_runs.c.provider == subject.provider,
                evaluation_runs.c.model == subject.model,
                evaluation_runs.c.verdict == Verdict.GOOD,
                evaluation_runs.c.job_id != besides,
            )
            .order_by(evaluation_runs.c.judged_at.desc(), evaluation_runs.c.job_id.desc())
            .limit(1)
        )
        return (await self._connection.execute(query)).one_or_none()

    async def keep_sample(self, job: JobRef, result: SampleResult) -> None:
        """Write a sample down; one of an earlier text of the same case makes room."""
        values = {"case_sha256": result.case_sha256, "result": result.model_dump(mode="json")}
        statement = pg_insert(evaluation_cases).values(
            tenant_id=job.tenant_id, job_id=job.job_id, case_name=result.case, sample=result.sample, **values
        )
        key = ["tenant_id", "job_id", "case_name", "sample"]
        await self._connection.execute(statement.on_conflict_do_update(index_elements=key, set_=values))

    async def get_samples(self, job_id: UUID) -> Sequence[SampleResult]:
        """All samples of a run, by case and number."""
        query = (
            select(evaluation_cases.c.result)
            .where(evaluation_cases.c.job_id == job_id)
            .order_by(evaluation_cases.c.case_name, evaluation_cases.c.sample)
        )
        return [SampleResult.model_validate(raw) for raw in (await self._connection.execute(query)).scalars()]

    async def judge(
        self, job: JobRef, *, verdict: Verdict, baseline_job_id: UUID | None, scores: Mapping[str, Any]
    ) -> None:
        """Write down what a run came to."""
        await self._connection.execute(
            update(evaluation_runs)
            .where(evaluation_runs.c.job_id == job.job_id)
            .values(verdict=verdict, baseline_job_id=baseline_job_id, scores=dict(scores), judged_at=func.now())
        )
