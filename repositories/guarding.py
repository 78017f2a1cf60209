"""Content policies of tenants."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from domain.guarding import ContentPolicy
from repositories.tables import guard_policies

_policy: Final = select(guard_policies.c.version, guard_policies.c.policy, guard_policies.c.updated_at)


@dataclass(frozen=True, slots=True)
class KeptPolicy:
    """A policy, and which one in the order of its changes it is; 0, and no time, for the defaults of everybody."""

    policy: ContentPolicy
    version: int
    updated_at: datetime | None


class PolicyReader:
    """The policy in force, in one round trip."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: UUID) -> ContentPolicy:
        """What the tenant has set, or the defaults."""
        return (await self.get_kept(tenant_id)).policy

    async def get_kept(self, tenant_id: UUID) -> KeptPolicy:
        """As ``get``, with its version."""
        # Row-level security leaves at most the tenant's own row.
        found = await self._database.read(tenant_id, _policy)
        if not found:
            return KeptPolicy(ContentPolicy(), 0, None)
        row = found[0]
        return KeptPolicy(ContentPolicy.model_validate(row.policy), row.version, row.updated_at)


class PolicyRepository:
    """Changes of policies, for one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, tenant_id: UUID, policy: ContentPolicy) -> KeptPolicy:
        """This policy holds from now on."""
        values = {"tenant_id": tenant_id, "version": 1, "policy": policy.model_dump(mode="json")}
        statement = pg_insert(guard_policies).values(values)
        statement = statement.on_conflict_do_update(
            index_elements=[guard_policies.c.tenant_id],
            set_={
                "version": guard_policies.c.version + 1,
                "policy": statement.excluded.policy,
                "updated_at": func.now(),
            },
        )
        row = (await self._connection.execute(statement.returning(guard_policies))).one()
        return KeptPolicy(policy, row.version, row.updated_at)
