"""Content policies: what a tenant wants done about personal data and harmful content."""

from uuid import UUID

import structlog

from core.database import Database
from domain.guarding import ContentPolicy
from repositories.guarding import KeptPolicy, PolicyReader, PolicyRepository

_log = structlog.get_logger(__name__)


class PolicyService:
    """Reading and setting policies, for one tenant at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader = PolicyReader(database)

    async def get(self, tenant_id: UUID) -> KeptPolicy:
        """The policy in force; the defaults, as version 0, where the tenant has set none."""
        return await self._reader.get_kept(tenant_id)

    async def put(self, tenant_id: UUID, policy: ContentPolicy) -> KeptPolicy:
        """Set the whole policy. It holds for everything that is looked at from now on, cached answers included."""
        async with self._database.tenant(tenant_id) as connection:
            kept = await PolicyRepository(connection).put(tenant_id, policy)
        _log.info("security.content_policy_set", version=kept.version, policy=policy.model_dump(mode="json"))
        return kept
