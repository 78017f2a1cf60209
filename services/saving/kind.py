"""What the platform knows about ``saving.import``."""

from uuid import UUID

from core.database import Database
from core.store import ArtifactStore
from domain.errors import FieldFault, InvalidInput, NotFound
from domain.saving import IMPORT_KIND, ImportInput, import_key
from domain.saving_records import COLLECTIONS
from repositories.artifacts import ArtifactRepository
from services.kinds import JobKind
from workflows.saving import IMPORT_WORKFLOW, TASK_QUEUE


def import_kind(database: Database, store: ArtifactStore) -> JobKind:
    """``saving.import``."""
    return JobKind(
        name=IMPORT_KIND,
        input_model=ImportInput,
        workflow=IMPORT_WORKFLOW,
        task_queue=TASK_QUEUE,
        summary=lambda wanted: f"Import of {wanted.collection} from {wanted.format}",
        check=FileCheck(database, store),
    )


class FileCheck:
    """Refuses an import of what is not there, before the job is acknowledged."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store

    async def __call__(self, tenant_id: UUID, wanted: ImportInput) -> None:
        """Raise InvalidInput naming the collection or the file."""
        if wanted.collection not in COLLECTIONS:
            known = ", ".join(COLLECTIONS)
            raise _refusal("/input/collection", f"is not one of: {known}")
        try:
            if wanted.artifact_id is not None:
                async with self._database.tenant(tenant_id) as connection:
                    await ArtifactRepository(connection).get_one(wanted.artifact_id)
            else:
                await self._store.measure(import_key(tenant_id, wanted))
        except NotFound as fault:
            name = "object_name" if wanted.artifact_id is None else "artifact_id"
            raise _refusal(f"/input/{name}", fault.detail) from None


def _refusal(pointer: str, message: str) -> InvalidInput:
    return InvalidInput("the file cannot be imported", faults=[FieldFault(pointer, message)])
