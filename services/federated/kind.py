"""What the platform knows about ``federated.cycle``."""

from uuid import UUID

from core.database import Database
from domain.errors import FieldFault, InvalidInput, NotFound
from domain.federated_rounds import FederatedCycleInput
from repositories.federated.registry import RegistryRepository
from services.kinds import JobKind
from workflows.federated import CYCLE_WORKFLOW, TASK_QUEUE


def cycle_kind(database: Database) -> JobKind:
    """``federated.cycle``."""
    return JobKind(
        name="federated.cycle",
        input_model=FederatedCycleInput,
        workflow=CYCLE_WORKFLOW,
        task_queue=TASK_QUEUE,
        summary=lambda wanted: f"Federated: {wanted.rounds} rounds of {wanted.goal} on {wanted.model}",
        check=ModelCheck(database),
    )


class ModelCheck:
    """Refuses a cycle on a model that does not exist."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, tenant_id: UUID, wanted: FederatedCycleInput) -> None:
        """Raise InvalidInput where there is no such model."""
        try:
            async with self._database.tenant(tenant_id) as connection:
                await RegistryRepository(connection).get_model(wanted.model)
        except NotFound as fault:
            pointer = FieldFault("/input/model", fault.detail)
            raise InvalidInput("the model does not exist", faults=[pointer]) from None
