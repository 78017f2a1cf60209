"""The aggregate of a round, computed once: remembered by the digest of everything that it is made from."""

import asyncio
import hashlib
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from activities.federated.ledger import spent_on
from activities.steps import StepKeeper, input_hash
from core.federated_metrics import CycleMetrics
from core.store import ArtifactStore
from domain.artifacts import store_key
from domain.errors import StoreUnavailable
from domain.federated_rounds import FederatedCycleInput
from domain.jobs import JobRef
from domain.model import Frozen
from learning.aggregation import AggregateResult, UpdateRef, aggregate, memo_key
from learning.members import digest_of
from repositories.rows import AnyRow
from repositories.steps import StepResultRepository

_FETCHES_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class FrozenRound:
    """A round whose updates cannot change any more, its model, the version it started from, and what was accepted."""

    row: AnyRow
    model: AnyRow
    base: AnyRow
    updates: Sequence[AnyRow]


class Aggregate(Frozen):
    """A new model as it lies in the store, and what became of the updates that it is made of."""

    sha256: str
    bytes: int
    state_sha256: str | None
    delta_norm: float
    left_out: int
    clipped: int
    epsilon: float | None


class Aggregator:
    """Built once for a worker."""

    def __init__(self, keeper: StepKeeper, store: ArtifactStore, metrics: CycleMetrics, blobs: Path) -> None:
        self._keeper = keeper
        self._store = store
        self._metrics = metrics
        self._blobs = blobs

    async def make(self, job: JobRef, wanted: FederatedCycleInput, round_: FrozenRound) -> Aggregate:
        """The aggregate of a round; a worker that died after it was in the store has not worked in vain.

        Raises AggregationRefused and StoreUnavailable, and Superseded where the job has moved on.
        """
        part, key = f"round-{round_.row.number}/aggregate", _key(wanted, round_)
        kept = await self._keeper.recall(job, part, key)
        if kept is not None:
            return Aggregate.model_validate(kept)
        made = await self._compute(job, wanted, round_)
        stored = Aggregate(
            sha256=await self._store.put(job.tenant_id, made.weights),
            bytes=len(made.weights),
            state_sha256=None if made.state is None else await self._store.put(job.tenant_id, made.state),
            delta_norm=made.delta_norm,
            left_out=sum(one.refused is not None for one in made.updates),
            clipped=sum(one.clipped for one in made.updates),
            epsilon=None if made.privacy is None else made.privacy.epsilon,
        )
        async with self._keeper.effect(job) as connection:
            await StepResultRepository(connection).add(job, part, key, stored.model_dump(mode="json"))
        return stored

    async def _compute(self, job: JobRef, wanted: FederatedCycleInput, round_: FrozenRound) -> AggregateResult:
        row, base = round_.row, round_.base
        parent = await self._fetch_whole(job, base.sha256)
        state = None
        if base.state_sha256 is not None:
            state = await self._store.get(store_key(job.tenant_id, base.state_sha256))
        gate = asyncio.Semaphore(_FETCHES_AT_ONCE)

        async def ref(update: AnyRow) -> UpdateRef:
            async with gate:
                return UpdateRef(await self._fetch_whole(job, update.sha256), update.sha256, update.examples)

        refs = await asyncio.gather(*(ref(update) for update in round_.updates))
        with self._metrics.aggregation.time():
            made = await asyncio.to_thread(
                aggregate, wanted.aggregation, parent, refs, state,
                noise_secret=bytes(row.noise_secret),
                spent=None if wanted.aggregation.privacy is None else spent_on(round_.model),
            )  # fmt: skip
        self._metrics.aggregation_peak.set(_peak_bytes())
        if made.privacy is not None:
            self._metrics.epsilon.set(made.privacy.epsilon)
        return made

    async def _fetch_whole(self, job: JobRef, sha256: str) -> Path:
        """A file that is what its digest says. What was accepted counts: it is read again, and never left out.

        Raises StoreUnavailable where it is damaged.
        """
        file = await self._store.fetch(store_key(job.tenant_id, sha256), self._blobs)
        if await asyncio.to_thread(digest_of, file) != sha256:
            await self._store.drop_copy(store_key(job.tenant_id, sha256), self._blobs)
            raise StoreUnavailable(f"weights are not what their digest says: {sha256}")
        return file


def _key(wanted: FederatedCycleInput, round_: FrozenRound) -> str:
    """Everything that the aggregate is made from, the noise of private rounds with it."""
    updates = [(update.sha256, update.examples) for update in round_.updates]
    content = memo_key(wanted.aggregation, round_.base.sha256, updates, round_.base.state_sha256)
    return input_hash("aggregate", content, hashlib.sha256(bytes(round_.row.noise_secret)).hexdigest())


def _peak_bytes() -> int:
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
