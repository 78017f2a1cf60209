"""Dead letters: giving a record another chance once whatever was wrong is mended."""

from uuid import UUID

from core.database import Database
from domain.errors import FieldFault, RecordsRejected, StateError
from domain.saving_records import fault_of
from repositories.rows import AnyRow
from repositories.saving.batches import BatchRepository
from repositories.saving.intake import shard_of
from services.saving.intake import get_collection


class DeadLetterService:
    """Use cases on dead letters."""

    def __init__(self, database: Database, *, shards: int) -> None:
        self._database = database
        self._shards = shards

    async def retry(self, tenant_id: UUID, collection_name: str, letter_id: UUID) -> AnyRow:
        """Put the record back into the inbox of its batch, which is returned.

        Raises NotFound, StateError where the record was too large to be kept, and RecordsRejected where today's
        rules still refuse it; then it stays what it is.
        """
        collection = get_collection(collection_name)
        async with self._database.tenant(tenant_id) as connection:
            batches = BatchRepository(connection)
            letter = await batches.take_dead_letter(collection.name, letter_id)
            if not letter.whole:
                raise StateError("only the beginning of this record was kept, as it was too large; send it again")
            fault = fault_of(collection, letter.payload)
            if fault is not None:
                faults = [FieldFault(fault.pointer, f"{fault.message} ({fault.code})")]
                raise RecordsRejected("the record is still not acceptable", faults=faults)
            await batches.put_back(letter, shard=shard_of(tenant_id, self._shards))
            return await batches.get_one(collection.name, letter.batch_id)
