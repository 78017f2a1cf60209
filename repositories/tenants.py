"""Tenants, their API keys, and the idempotency keys that they sent. All of it is platform business."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import Uuid, bindparam, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from repositories.rows import AnyRow
from repositories.tables import api_keys, idempotency_keys, tenants

KEY_CHANNEL: Final = "longhaul_keys"
"""NOTIFY channel; the payload is the prefix of a key that changed."""


class TenantRepository:
    """Tenants and keys, in a system transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, *, tenant_id: UUID, name: str) -> None:
        """Write a tenant down; the database refuses a second one of the same name."""
        await self._connection.execute(insert(tenants).values(id=tenant_id, name=name))

    async def get_by_name_or_none(self, name: str) -> AnyRow | None:
        """The tenant of that name."""
        return (await self._connection.execute(select(tenants).where(tenants.c.name == name))).one_or_none()

    async def set_limit(self, tenant_id: UUID, *, kind: str, most: int) -> None:
        """How many jobs of a kind the tenant may have running at once."""
        limits = tenants.c.max_running.op("||")(func.jsonb_build_object(kind, most))
        await self._connection.execute(update(tenants).where(tenants.c.id == tenant_id).values(max_running=limits))

    async def add_key(
        self,
        *,
        key_id: UUID,
        tenant_id: UUID,
        prefix: str,
        key_hash: bytes,
        name: str,
        scopes: Sequence[str],
        expires_at: datetime | None,
    ) -> None:
        """Write a key down by its hash."""
        await self._connection.execute(
            insert(api_keys).values(
                id=key_id,
                tenant_id=tenant_id,
                prefix=prefix,
                key_hash=key_hash,
                name=name,
                scopes=list(scopes),
                expires_at=expires_at,
            )
        )

    async def get_live_key_or_none(self, prefix: str) -> AnyRow | None:
        """The key with this prefix, unless it is revoked or expired."""
        wanted = select(
            api_keys.c.id, api_keys.c.tenant_id, api_keys.c.key_hash, api_keys.c.scopes, api_keys.c.expires_at
        )
        query = wanted.where(
            api_keys.c.prefix == prefix,
            api_keys.c.revoked_at.is_(None),
            func.coalesce(api_keys.c.expires_at > func.now(), True),
        )
        return (await self._connection.execute(query)).one_or_none()

    async def get_keys(self, tenant_id: UUID) -> Sequence[AnyRow]:
        """All keys of a tenant, oldest first, without their hashes."""
        wanted = [column for column in api_keys.c if column is not api_keys.c.key_hash]
        query = select(*wanted).where(api_keys.c.tenant_id == tenant_id).order_by(api_keys.c.id)
        found: Sequence[AnyRow] = (await self._connection.execute(query)).all()
        return found

    async def touch_key(self, key_id: UUID) -> None:
        """The key was just used."""
        await self._connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=func.now()))

    async def revoke_key(self, prefix: str) -> bool:
        """End a key now and tell every API process; False where there is no such live key."""
        ended = update(api_keys).where(api_keys.c.prefix == prefix, api_keys.c.revoked_at.is_(None))
        statement = ended.values(revoked_at=func.now()).returning(api_keys.c.prefix)
        found = (await self._connection.execute(statement)).one_or_none()
        if found is not None:
            await self._connection.execute(select(func.pg_notify(KEY_CHANNEL, prefix)))
        return found is not None


# Bound to something else unless its time is over; a concurrent request with the same key waits here for the first one.
CLAIM_KEY: Final = text(
    """
    INSERT INTO idempotency_keys (tenant_id, key, request_hash, job_id, expires_at)
    VALUES (:tenant_id, :key, :request_hash, :job_id, now() + make_interval(secs => :keep))
    ON CONFLICT (tenant_id, key) DO UPDATE
    SET request_hash = excluded.request_hash, job_id = excluded.job_id, expires_at = excluded.expires_at
    WHERE idempotency_keys.expires_at < now()
    RETURNING key
    """
).bindparams(bindparam("tenant_id", type_=Uuid), bindparam("job_id", type_=Uuid))


class IdempotencyRepository:
    """Which job an idempotency key of the tenant stands for."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def claim(
        self, *, tenant_id: UUID, key: str, request_hash: bytes, job_id: UUID, keep: timedelta
    ) -> AnyRow | None:
        """Bind the key to a job, or whatever else has that id; where it is bound already, the older binding."""
        values = {"tenant_id": tenant_id, "key": key, "request_hash": request_hash, "job_id": job_id}
        claimed = await self._connection.execute(CLAIM_KEY, values | {"keep": keep.total_seconds()})
        return None if claimed.one_or_none() is not None else await self.get_or_none(key)

    async def get_or_none(self, key: str) -> AnyRow | None:
        """The job that the key stands for, and the hash of the request it came with; None once its time is over."""
        query = select(idempotency_keys.c.request_hash, idempotency_keys.c.job_id)
        live = query.where(idempotency_keys.c.key == key, idempotency_keys.c.expires_at >= func.now())
        return (await self._connection.execute(live)).one_or_none()

    async def delete_expired(self) -> None:
        """Forget keys whose time is over."""
        await self._connection.execute(delete(idempotency_keys).where(idempotency_keys.c.expires_at < func.now()))
