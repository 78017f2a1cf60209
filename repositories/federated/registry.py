"""Models, their versions, and every decision about them."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.ids import new_id
from domain.errors import NotFound
from domain.federated_registry import Action
from domain.jobs import TERMINAL
from repositories.rows import AnyRow
from repositories.tables import fl_decisions, fl_models, fl_versions, jobs


class RegistryRepository:
    """The models of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- questions ----------------------------------------------------------------------------------

    async def get_model(self, name: str) -> AnyRow:
        """The model. Raises NotFound."""
        found = (await self._connection.execute(select(fl_models).where(fl_models.c.name == name))).one_or_none()
        if found is None:
            raise NotFound("there is no such model")
        return found

    async def lock_model(self, name: str) -> AnyRow:
        """The model, locked until the end of the transaction. Raises NotFound."""
        query = select(fl_models).where(fl_models.c.name == name).with_for_update(key_share=True)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such model")
        return found

    async def get_models(self, *, limit: int) -> Sequence[AnyRow]:
        """Models by name."""
        found: Sequence[AnyRow] = (
            await self._connection.execute(select(fl_models).order_by(fl_models.c.name).limit(limit))
        ).all()
        return found

    async def get_version(self, version_id: UUID) -> AnyRow:
        """The version. Raises NotFound."""
        query = select(fl_versions).where(fl_versions.c.id == version_id)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such version")
        return found

    async def get_version_by_number(self, model: str, number: int) -> AnyRow:
        """The version of that number. Raises NotFound."""
        query = select(fl_versions).where(fl_versions.c.model == model, fl_versions.c.number == number)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such version")
        return found

    async def get_versions(self, model: str, *, limit: int) -> Sequence[AnyRow]:
        """Versions of a model, newest first."""
        query = select(fl_versions).where(fl_versions.c.model == model).order_by(fl_versions.c.number.desc())
        found: Sequence[AnyRow] = (await self._connection.execute(query.limit(limit))).all()
        return found

    async def get_decisions(self, model: str, *, limit: int) -> Sequence[AnyRow]:
        """Decisions about a model, newest first."""
        query = select(fl_decisions).where(fl_decisions.c.model == model).order_by(fl_decisions.c.id.desc())
        found: Sequence[AnyRow] = (await self._connection.execute(query.limit(limit))).all()
        return found

    async def get_blob_bytes_or_none(self, sha256: str) -> int | None:
        """How long the weights of this digest are, where they are of some version."""
        query = select(fl_versions.c.bytes).where(fl_versions.c.sha256 == sha256).limit(1)
        found: int | None = (await self._connection.execute(query)).scalar_one_or_none()
        return found

    async def is_claimed_by_other(self, model: AnyRow, job_id: UUID) -> bool:
        """Whether another cycle, one that has not ended, is at work on this model."""
        if model.cycle_job_id is None or model.cycle_job_id == job_id:
            return False
        query = select(jobs.c.id).where(jobs.c.id == model.cycle_job_id, jobs.c.status.not_in(sorted(TERMINAL)))
        return (await self._connection.execute(query)).one_or_none() is not None

    async def is_any_claimed(self) -> bool:
        """Whether a cycle, one that has not ended, is at work on some model."""
        claimed = select(fl_models.c.name).join(jobs, jobs.c.id == fl_models.c.cycle_job_id)
        query = claimed.where(jobs.c.status.not_in(sorted(TERMINAL))).limit(1)
        return (await self._connection.execute(query)).one_or_none() is not None

    # --- changes ------------------------------------------------------------------------------------

    async def add_model(self, values: Mapping[str, Any]) -> bool:
        """Write a model down; False where there is one of that name."""
        statement = pg_insert(fl_models).values(**values).on_conflict_do_nothing().returning(fl_models.c.name)
        return (await self._connection.execute(statement)).one_or_none() is not None

    async def claim(self, name: str, job_id: UUID) -> None:
        """This cycle is at work on the model."""
        await self._connection.execute(update(fl_models).where(fl_models.c.name == name).values(cycle_job_id=job_id))

    async def release(self, name: str, job_id: UUID) -> None:
        """This cycle is not at work on the model any more; the claim of another one stays."""
        mine = (fl_models.c.name == name, fl_models.c.cycle_job_id == job_id)
        await self._connection.execute(update(fl_models).where(*mine).values(cycle_job_id=None))

    async def set_spent(self, name: str, *, loss: Sequence[float], rounds: int) -> None:
        """What private rounds have spent on the model, this one included."""
        values = {"privacy_loss": list(loss), "privacy_rounds": rounds}
        await self._connection.execute(update(fl_models).where(fl_models.c.name == name).values(**values))

    async def add_version(self, tenant_id: UUID, model: str, **values: Any) -> UUID:
        """One more version, with the next number."""
        counted = (
            update(fl_models)
            .where(fl_models.c.name == model)
            .values(versions=fl_models.c.versions + 1)
            .returning(fl_models.c.versions)
        )
        number = (await self._connection.execute(counted)).scalar_one()
        version_id = new_id()
        await self._connection.execute(
            insert(fl_versions).values(id=version_id, tenant_id=tenant_id, model=model, number=number, **values)
        )
        return version_id

    async def set_version(self, version_id: UUID, **values: Any) -> None:
        """Change what is known about a version."""
        await self._connection.execute(update(fl_versions).where(fl_versions.c.id == version_id).values(**values))

    async def swap_head(self, model: str, *, expected: UUID | None, head: UUID) -> bool:
        """Make a version the head if the head is still the expected one."""
        statement = (
            update(fl_models)
            .where(fl_models.c.name == model, fl_models.c.head_id.is_not_distinct_from(expected))
            .values(head_id=head, updated_at=func.now())
            .returning(fl_models.c.name)
        )
        return (await self._connection.execute(statement)).one_or_none() is not None

    async def decide(
        self,
        tenant_id: UUID,
        model: str,
        action: Action,
        *,
        version_id: UUID,
        head_before: UUID | None,
        head_after: UUID | None,
        actor: str,
        reason: str,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Write down who or what decided what, and why."""
        await self._connection.execute(
            insert(fl_decisions).values(
                id=new_id(),
                tenant_id=tenant_id,
                model=model,
                action=action,
                version_id=version_id,
                head_before=head_before,
                head_after=head_after,
                actor=actor,
                reason=reason,
                data=dict(data or {}),
            )
        )
