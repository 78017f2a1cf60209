"""What the platform knows about ``generation.evaluation``."""

from decimal import Decimal
from uuid import UUID

from core.database import Database
from domain.errors import FieldFault, InvalidInput, NotFound
from domain.evaluation import KIND, MAX_SAMPLES_OF_A_RUN, EvaluationInput, checksum
from prompts.golden import golden_set_names, load_golden_set
from repositories.evaluation import EvaluationRepository
from services.kinds import JobKind
from workflows.evaluation import EVALUATION_WORKFLOW
from workflows.generation import TASK_QUEUE


def evaluation_kind(database: Database, *, default_budget_usd: Decimal) -> JobKind:
    """``generation.evaluation``; a run that names no budget has the default one, so that no night runs away."""
    return JobKind(
        name=KIND,
        input_model=EvaluationInput,
        workflow=EVALUATION_WORKFLOW,
        task_queue=TASK_QUEUE,
        summary=lambda wanted: f"Evaluation: {wanted.golden_set}, {wanted.samples} samples, {wanted.provider}",
        budget=lambda wanted: wanted.budget_usd or default_budget_usd,
        check=EvaluationCheck(database),
    )


class EvaluationCheck:
    """Refuses an evaluation of what there is not, or that nothing can be compared with."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, tenant_id: UUID, wanted: EvaluationInput) -> None:
        """Raise InvalidInput naming the field."""
        names = golden_set_names()
        if wanted.golden_set not in names:
            raise _refused("/input/golden_set", f"is not one of: {', '.join(names)}")
        try:
            cases = load_golden_set(wanted.golden_set).chosen(wanted.cases)
        except KeyError as unknown:
            raise _refused("/input/cases", f"the golden set has no case {unknown.args[0]}") from None
        if len(cases) * wanted.samples > MAX_SAMPLES_OF_A_RUN:
            raise _refused("/input/samples", f"{len(cases)} cases make more than {MAX_SAMPLES_OF_A_RUN} samples")
        if isinstance(wanted.baseline, UUID):
            await self._check_baseline(tenant_id, wanted.baseline, checksum(cases))

    async def _check_baseline(self, tenant_id: UUID, job_id: UUID, wanted: str) -> None:
        try:
            async with self._database.tenant(tenant_id) as connection:
                found = await EvaluationRepository(connection).get_run(job_id)
        except NotFound as fault:
            raise _refused("/input/baseline", fault.detail) from None
        if found.verdict is None:
            raise _refused("/input/baseline", "has not been judged: it did not finish within its budget")
        if found.checksum != wanted:
            raise _refused("/input/baseline", "measures other cases, or other texts of them")


def _refused(pointer: str, message: str) -> InvalidInput:
    return InvalidInput("the evaluation cannot be carried out", faults=[FieldFault(pointer, message)])
