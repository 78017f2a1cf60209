"""The steps of an evaluation: open the run, make courses of golden cases, judge them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from temporalio import activity

from activities.generation.documents import DocumentStore
from activities.generation.models import Models
from activities.generation.samples import EXTRACTIVE, SampleMaker
from activities.generation.writer import StructuredWriter
from activities.heartbeat import heartbeating
from activities.steps import StepKeeper, input_hash
from core.database import Database
from core.evaluation_metrics import EvaluationMetrics
from domain.artifacts import Artifact, ArtifactRole
from domain.errors import EvaluationFailed, InvalidInput
from domain.evaluation import (
    JUDGE_STEP,
    PREPARE_STEP,
    SAMPLES_STEP,
    EvaluationInput,
    EvaluationReport,
    GoldenCase,
    SampleResult,
    Verdict,
    checksum,
)
from domain.evaluation_report import RunFacts, explain, make_report
from domain.generation import LanguageModel
from domain.jobs import JobRef
from domain.model import Frozen
from prompts import course_lesson, course_outline, repair
from prompts.golden import load_golden_set
from rendering.evaluation_report import evaluation_files
from repositories.evaluation import EvaluationRepository, Subject
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from repositories.steps import StepResultRepository

_PROMPTS: Final = (course_outline.PROMPT, course_lesson.PROMPT, repair.PROMPT)
_CODES: Final = {
    Verdict.REGRESSED: "E.EVALUATION.REGRESSED",
    Verdict.BELOW_FLOOR: "E.EVALUATION.BELOW_FLOOR",
}


class EvaluationStepInput(Frozen):
    """A step that needs no more than its job."""

    job: JobRef


class EvaluationPlan(Frozen):
    """The cases to make courses of, how often each, and how many samples at once."""

    cases: tuple[str, ...]
    samples: int
    at_once: int


class EvaluateSampleInput(Frozen):
    """One sample of one case; samples are counted from one."""

    job: JobRef
    case: str
    sample: int


@dataclass(frozen=True, slots=True)
class _Run:
    """What a job of evaluation measures."""

    wanted: EvaluationInput
    cases: tuple[GoldenCase, ...]
    model: LanguageModel
    subject: Subject

    def digest(self, *more: str) -> str:
        """Everything that a step's result depends on."""
        subject = self.subject
        prompts = [prompt.sha256 for prompt in _PROMPTS]
        return input_hash(subject.checksum, subject.provider, subject.model, prompts, *more)


class EvaluationActivities:
    """Steps of ``generation.evaluation``. A sample is made by the very wishes and the writer that courses are."""

    def __init__(
        self,
        database: Database,
        keeper: StepKeeper,
        documents: DocumentStore,
        writer: StructuredWriter,
        *,
        models: Models,
        metrics: EvaluationMetrics,
        at_once: int,
    ) -> None:
        self._database = database
        self._keeper = keeper
        self._documents = documents
        self._writer = writer
        self._models = models
        self._metrics = metrics
        self._at_once = at_once
        self._counted: set[tuple[UUID, str]] = set()  # one entry a verdict: some a night

    @activity.defn(name="open_evaluation")
    async def open_evaluation(self, step: EvaluationStepInput) -> EvaluationPlan:
        """Write down what is measured; the plan of the run."""
        job = step.job
        async with heartbeating(), self._keeper.attempt(job, PREPARE_STEP):
            run = await self._run_of(job)
            cases = tuple(case.name for case in run.cases)
            plan = EvaluationPlan(cases=cases, samples=run.wanted.samples, at_once=self._at_once)
            digest = run.digest(PREPARE_STEP)
            if await self._keeper.recall(job, PREPARE_STEP, digest) is None:
                data = {"cases": len(plan.cases), "samples": plan.samples}
                async with self._keeper.effect(job) as connection:
                    await EvaluationRepository(connection).open(job, run.subject, samples=plan.samples)
                    await self._keeper.finish_part(
                        connection, job, step=PREPARE_STEP, part=PREPARE_STEP, digest=digest, result=data,
                        event="evaluation.opened", data=data,
                    )  # fmt: skip
            self._metrics.expect(provider=run.subject.provider, model=run.subject.model)
            return plan

    @activity.defn(name="evaluate_sample")
    async def evaluate_sample(self, step: EvaluateSampleInput) -> None:
        """Make one course of one case, score it, and keep both. Calls that were paid for before are read back."""
        job, part = step.job, f"sample-{step.case}-{step.sample}"
        async with heartbeating(), self._keeper.attempt(job, SAMPLES_STEP):
            run = await self._run_of(job)
            case = next(case for case in run.cases if case.name == step.case)
            digest = run.digest(part)
            if await self._keeper.recall(job, part, digest) is not None:
                return
            wanted = case.course(provider=run.wanted.provider, model=run.wanted.model)
            maker = SampleMaker(
                self._writer, job, run.model, run.subject.model, case=case, wanted=wanted, sample=step.sample, part=part
            )
            made = await maker.make()
            name = f"samples/{step.case}-{step.sample:02}.json"
            artifact = await self._documents.store(job, name, made, ArtifactRole.PARTIAL)
            async with self._keeper.effect(job) as connection:
                first = await self._keeper.finish_part(
                    connection, job, step=SAMPLES_STEP, part=part, digest=digest,
                    result={"artifact_id": str(artifact.id)}, event="evaluation.sampled",
                    data={"case": step.case, "sample": step.sample, "faults": len(made.result.faults)},
                )  # fmt: skip
                if first:
                    await EvaluationRepository(connection).keep_sample(job, made.result)
                    await self._documents.add(connection, artifact)

    @activity.defn(name="judge_evaluation")
    async def judge_evaluation(self, step: EvaluationStepInput) -> None:
        """Compare the run with its baseline and with the floors, and hand out the report.

        Raises E.EVALUATION.REGRESSED or E.EVALUATION.BELOW_FLOOR, after the report is there for everybody to read.
        """
        job = step.job
        async with heartbeating(), self._keeper.attempt(job, JUDGE_STEP):
            run = await self._run_of(job)
            digest = run.digest(JUDGE_STEP)
            kept = await self._keeper.recall(job, JUDGE_STEP, digest)
            if kept is None:
                kept = await self._judge(job, run, digest)
            verdict = Verdict(kept["verdict"])
            self._count(job, digest, kept)
            if verdict is not Verdict.GOOD:
                raise EvaluationFailed(kept["detail"], code=_CODES[verdict])

    # --- what is measured ---------------------------------------------------------------------------

    async def _run_of(self, job: JobRef) -> _Run:
        async with self._database.tenant(job.tenant_id) as connection:
            raw = await JobRepository(connection).get_input(job.job_id)
        wanted = EvaluationInput.model_validate(raw)
        cases = _cases_of(wanted)
        course = cases[0].course(provider=wanted.provider, model=wanted.model)
        model, model_name = self._models.chosen(course)
        return _Run(wanted, cases, model, Subject(wanted.golden_set, checksum(cases), model.name, model_name))

    # --- the verdict --------------------------------------------------------------------------------

    async def _judge(self, job: JobRef, run: _Run, digest: str) -> dict[str, Any]:
        """Judge the run and write everything down, once; what is on record afterwards."""
        async with self._database.tenant(job.tenant_id) as connection:
            evaluations = EvaluationRepository(connection)
            samples = _current(await evaluations.get_samples(job.job_id), run)
            baseline = await self._baseline(evaluations, job, run)
            before = [] if baseline is None else await evaluations.get_samples(baseline.job_id)
        facts = RunFacts(
            job_id=job.job_id,
            golden_set=run.subject.golden_set,
            checksum=run.subject.checksum,
            provider=run.subject.provider,
            model=run.subject.model,
            samples=run.wanted.samples,
            extractive=run.model.name in EXTRACTIVE,
            prompts={prompt.id: prompt.version for prompt in _PROMPTS},
            baseline_job_id=None if baseline is None else baseline.job_id,
            judged_at=datetime.now(UTC),
        )
        report = await asyncio.to_thread(make_report, facts, samples, before)
        artifacts = [
            await self._documents.store_bytes(job, file.name, file.media_type, file.body, ArtifactRole.EXPORT)
            for file in await asyncio.to_thread(evaluation_files, report)
        ]
        result = _result(report, artifacts)
        kept = {**result, "below_floor": bool(report.floors)}
        async with self._keeper.effect(job) as connection:
            earlier = await StepResultRepository(connection).get_or_none(job, JUDGE_STEP, digest)
            if earlier is not None:
                return earlier
            await EvaluationRepository(connection).judge(
                job, verdict=report.verdict, baseline_job_id=report.baseline_job_id, scores=result["scores"]
            )
            for artifact in artifacts:
                await self._documents.add(connection, artifact)
            await self._keeper.finish_part(
                connection, job, step=JUDGE_STEP, part=JUDGE_STEP, digest=digest, result=kept,
                event="evaluation.judged",
                data={"verdict": report.verdict, "files": [artifact.name for artifact in artifacts]},
            )  # fmt: skip
            await JobRepository(connection).set_result(job.job_id, result)
        return kept

    def _count(self, job: JobRef, digest: str, kept: dict[str, Any]) -> None:
        """Count a verdict, once in this process, also where it was found on record.

        Whoever wrote it may have died before it was counted. So a retry that says the same again may count again, in
        another process: a regression told twice is better than one that nobody hears of.
        """
        if (job.job_id, digest) in self._counted:
            return
        self._counted.add((job.job_id, digest))
        verdict = Verdict(kept["verdict"])
        self._metrics.judged(
            provider=kept["provider"],
            model=kept["model"],
            scores=kept["scores"],
            regressed=verdict is Verdict.REGRESSED,
            # Verdicts of earlier releases do not tell it apart.
            below_floor=kept.get("below_floor", verdict is Verdict.BELOW_FLOOR),
        )

    async def _baseline(self, evaluations: EvaluationRepository, job: JobRef, run: _Run) -> AnyRow | None:
        wish = run.wanted.baseline
        if isinstance(wish, UUID):
            found = await evaluations.get_run(wish)
            if found.verdict is None or found.checksum != run.subject.checksum:
                raise InvalidInput("the baseline was never judged, or measures other cases")
            return found
        return None if wish == "none" else await evaluations.get_last_good_or_none(run.subject, besides=job.job_id)


def _cases_of(wanted: EvaluationInput) -> tuple[GoldenCase, ...]:
    try:
        return load_golden_set(wanted.golden_set).chosen(wanted.cases)
    except KeyError as unknown:
        # It was there when the job was accepted: another version of this worker has other cases.
        raise InvalidInput(f"this worker has no golden set or case of the name {unknown.args[0]}") from None


def _current(samples: Sequence[SampleResult], run: _Run) -> list[SampleResult]:
    """The samples of the cases as they are now; an earlier attempt may have left others."""
    known = {case.name: case.sha256 for case in run.cases}
    return [
        sample
        for sample in samples
        if known.get(sample.case) == sample.case_sha256 and sample.sample <= run.wanted.samples
    ]


def _result(report: EvaluationReport, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """The result of the job: the verdict with its reasons, the means, and where the report lies."""
    return {
        "verdict": report.verdict,
        "detail": explain(report.changes, report.floors),
        "baseline_job_id": None if report.baseline_job_id is None else str(report.baseline_job_id),
        "golden_set": report.golden_set,
        "checksum": report.checksum,
        "provider": report.provider,
        "model": report.model,
        "cases": len(report.cases),
        "samples": report.samples,
        "scores": {metric.value: round(estimate.mean, 6) for metric, estimate in report.scores.items()},
        "cost_usd": f"{report.cost_usd:f}",
        "artifacts": [
            {"id": str(artifact.id), "name": artifact.name, "media_type": artifact.media_type,
             "bytes": artifact.bytes, "sha256": artifact.sha256, "url": f"/api/v1/artifacts/{artifact.id}"}
            for artifact in artifacts
        ],
    }  # fmt: skip
