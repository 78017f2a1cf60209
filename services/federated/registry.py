"""Models and their versions, for one tenant at a time: made, shown, rolled back, asked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from core.database import Database
from core.federated_metrics import IngestMetrics
from core.store import ArtifactStore
from domain.artifacts import store_key
from domain.errors import FieldFault, HeadMoved, InvalidInput, ModelExists, NoRuntime, NotFound
from domain.federated_registry import (
    CUSTOM,
    Action,
    ModelRuntime,
    NewModel,
    Rollback,
    VersionStatus,
)
from learning.weights import Schema, WeightsRefused, check, check_schema, read_header
from repositories.artifacts import ArtifactRepository
from repositories.federated.registry import RegistryRepository
from repositories.rows import AnyRow

SHOWN: Final = 100
"""How many versions and decisions of a model are shown."""


@dataclass(frozen=True, slots=True)
class ShownModel:
    """A model with its latest versions and decisions, newest first."""

    row: AnyRow
    head: AnyRow | None
    versions: Sequence[AnyRow]
    decisions: Sequence[AnyRow]


@dataclass(frozen=True, slots=True)
class Predicted:
    """Answers, and the version that gave them."""

    version: int
    answers: list[Any]


class RegistryService:
    """Use cases on models."""

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        runtime: ModelRuntime,
        metrics: IngestMetrics,
        *,
        folder: Path,
    ) -> None:
        self._database = database
        self._store = store
        self._runtime = runtime
        self._metrics = metrics
        self._folder = folder

    async def create(self, tenant_id: UUID, wish: NewModel, *, actor: str) -> ShownModel:
        """A model whose first version is its head.

        Raises ModelExists, InvalidInput for weights that are none or are not those of the family, and NoRuntime for a
        family that is not served here.
        """
        file = await self._first_weights(tenant_id, wish)
        try:
            await asyncio.to_thread(check, file)
            header = await asyncio.to_thread(read_header, file)
            await self._check_family(wish, header)
        except WeightsRefused as fault:
            pointer = FieldFault("/weights_artifact_id", fault.detail)
            raise InvalidInput("the weights cannot be used", faults=[pointer]) from fault
        holdout = await self._holdout(tenant_id, wish, file)
        schema = {name: [spec.dtype, list(spec.shape)] for name, spec in sorted(header.items())}
        length = (await asyncio.to_thread(file.stat)).st_size
        values = {
            "tenant_id": tenant_id,
            "name": wish.name,
            "family": wish.family,
            "holdout_sha256": holdout,
            "schema": schema,
            "bytes": length,
        }
        async with self._database.tenant(tenant_id) as connection:
            registry = RegistryRepository(connection)
            if not await registry.add_model(values):
                raise ModelExists(f"there is a model {wish.name}")
            first = await registry.add_version(
                tenant_id, wish.name, sha256=file.name, bytes=length, status=VersionStatus.PUBLISHED
            )
            await registry.swap_head(wish.name, expected=None, head=first)
            await registry.decide(
                tenant_id, wish.name, Action.CREATED,
                version_id=first, head_before=None, head_after=first, actor=actor, reason="the first version",
            )  # fmt: skip
        return await self.get(tenant_id, wish.name)

    async def get(self, tenant_id: UUID, name: str) -> ShownModel:
        """The model with its lineage. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            registry = RegistryRepository(connection)
            row = await registry.get_model(name)
            head = None if row.head_id is None else await registry.get_version(row.head_id)
            versions = await registry.get_versions(name, limit=SHOWN)
            decisions = await registry.get_decisions(name, limit=SHOWN)
        return ShownModel(row, head, versions, decisions)

    async def list_all(self, tenant_id: UUID, *, limit: int) -> Sequence[AnyRow]:
        """Models by name."""
        async with self._database.tenant(tenant_id) as connection:
            return await RegistryRepository(connection).get_models(limit=limit)

    async def roll_back(self, tenant_id: UUID, name: str, wish: Rollback, *, actor: str) -> ShownModel:
        """Make an earlier version the head again.

        Raises NotFound, and HeadMoved where that makes no sense or the head is not the expected one.
        """
        async with self._database.tenant(tenant_id) as connection:
            registry = RegistryRepository(connection)
            model = await registry.lock_model(name)
            head = await registry.get_version(model.head_id)
            if wish.expected_head not in {None, head.number}:
                raise HeadMoved(f"version {head.number} is the head, not version {wish.expected_head}")
            target = await self._target(registry, name, head, wish)
            if target.id == head.id:
                raise HeadMoved(f"version {target.number} is the head already")
            if target.status not in {VersionStatus.PUBLISHED, VersionStatus.ROLLED_BACK}:
                raise HeadMoved(f"version {target.number} was never published")
            await registry.set_version(head.id, status=VersionStatus.ROLLED_BACK, reason=wish.reason)
            await registry.set_version(target.id, status=VersionStatus.PUBLISHED, reason=None)
            await registry.swap_head(name, expected=head.id, head=target.id)
            await registry.decide(
                tenant_id, name, Action.ROLLED_BACK,
                version_id=head.id, head_before=head.id, head_after=target.id, actor=actor, reason=wish.reason,
            )  # fmt: skip
        return await self.get(tenant_id, name)

    async def find_blob(self, tenant_id: UUID, sha256: str) -> int:
        """How long the weights of this digest are. Raises NotFound for what is no version's."""
        async with self._database.tenant(tenant_id) as connection:
            found = await RegistryRepository(connection).get_blob_bytes_or_none(sha256)
        if found is None:
            raise NotFound("there are no such weights")
        return found

    async def predict(self, tenant_id: UUID, name: str, samples: list[dict[str, Any]]) -> Predicted:
        """Answers of the published head: which one that is, is asked anew each time.

        Raises NotFound, NoRuntime, and InvalidInput for samples that the family does not take.
        """
        async with self._database.tenant(tenant_id) as connection:
            registry = RegistryRepository(connection)
            model = await registry.get_model(name)
            head = await registry.get_version(model.head_id)
        weights = await self._store.fetch(store_key(tenant_id, head.sha256), self._folder / "blobs")
        kept_as = f"{tenant_id}/{name}"
        answers = await asyncio.to_thread(self._runtime.predict, kept_as, model.family, weights, samples)
        self._metrics.predictions.labels(model.family).inc(len(samples))
        return Predicted(head.number, answers)

    # ------------------------------------------------------------------------------------------------

    async def _first_weights(self, tenant_id: UUID, wish: NewModel) -> Path:
        if wish.weights_artifact_id is not None:
            sha256 = await self._artifact(tenant_id, wish.weights_artifact_id, "/weights_artifact_id")
        elif wish.family == CUSTOM:
            pointer = FieldFault("/weights_artifact_id", "is needed: a custom model has no first weights of its own")
            raise InvalidInput("the weights are missing", faults=[pointer])
        else:
            made = await asyncio.to_thread(self._runtime.initial, wish.family, seed=wish.seed)
            sha256 = await self._store.put(tenant_id, made)
        return await self._store.fetch(store_key(tenant_id, sha256), self._folder / "blobs")

    async def _check_family(self, wish: NewModel, header: Schema) -> None:
        """Pass for the tensors of the family. Raises WeightsRefused, and InvalidInput for an unknown family."""
        if wish.family == CUSTOM or wish.weights_artifact_id is None:
            return
        try:
            own = await asyncio.to_thread(self._runtime.initial, wish.family, seed=0)
        except NoRuntime:
            return  # nobody can tell here; whoever trains or predicts with them will
        check_schema(header, read_header(own))

    async def _holdout(self, tenant_id: UUID, wish: NewModel, weights: Path) -> str | None:
        """The digest of the held-out samples, once the family has been judged by them."""
        if wish.holdout_artifact_id is None:
            return None
        sha256 = await self._artifact(tenant_id, wish.holdout_artifact_id, "/holdout_artifact_id")
        samples = await self._store.fetch(store_key(tenant_id, sha256), self._folder / "blobs")
        await asyncio.to_thread(self._runtime.evaluate, wish.family, weights, samples)
        return sha256

    async def _artifact(self, tenant_id: UUID, artifact_id: UUID, pointer: str) -> str:
        async with self._database.tenant(tenant_id) as connection:
            try:
                return (await ArtifactRepository(connection).get_one(artifact_id)).sha256
            except NotFound as fault:
                raise InvalidInput("the artifact cannot be used", faults=[FieldFault(pointer, fault.detail)]) from None

    async def _target(self, registry: RegistryRepository, name: str, head: AnyRow, wish: Rollback) -> AnyRow:
        if wish.version is not None:
            return await registry.get_version_by_number(name, wish.version)
        if head.parent_id is None:
            raise HeadMoved("the head has no parent to go back to")
        return await registry.get_version(head.parent_id)
