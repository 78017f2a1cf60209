"""Who takes part, in which round, and until when."""

import hashlib
import hmac
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Database
from core.federated_metrics import IngestMetrics
from core.ids import new_id
from domain.errors import FieldFault, InvalidInput, NotFound, RoundClosed
from domain.federated_protocol import EnrolmentRequest, LeaseRequest
from domain.federated_rounds import lease_ends, pace_seconds
from learning.weights import MAX_HEADER_BYTES
from repositories.federated.registry import RegistryRepository
from repositories.federated.rounds import ParticipantRepository, RoundRepository
from repositories.rows import AnyRow
from services.tenants import Caller, Scope, TenantService

_MODEL_TAG: Final = "model:"
_SEEN_EVERY: Final = timedelta(hours=1)
"""How often it is written down that a participant is there; how many there are counts those of a day."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A participant and its key, which is shown this once."""

    participant_id: UUID
    key: str


@dataclass(frozen=True, slots=True)
class Leased:
    """A place in a round."""

    lease_id: UUID
    token: str
    round: AnyRow
    expires_at: datetime

    @property
    def max_update_bytes(self) -> int:
        """How long the update may be at most: the model's values and a header."""
        return largest_update(self.round.model_bytes)


@dataclass(frozen=True, slots=True)
class NoPlace:
    """There is no work now; ask again after so long."""

    retry_after: timedelta


def largest_update(model_bytes: int) -> int:
    """How long an update of a model may be: its values and any header that is acceptable."""
    return model_bytes + MAX_HEADER_BYTES


class ParticipantService:
    """Use cases of participants, for one tenant at a time."""

    def __init__(self, database: Database, keys: TenantService, metrics: IngestMetrics) -> None:
        self._database = database
        self._keys = keys
        self._metrics = metrics
        self._chance = random.SystemRandom()

    async def enrol(self, tenant_id: UUID, wish: EnrolmentRequest) -> Enrolled:
        """A participant with a key that may take part and do nothing else.

        Under a name that is known it is the same participant, and its older key ends. Raises NotFound for a model
        that does not exist.
        """
        async with self._database.tenant(tenant_id) as connection:
            if wish.model is not None:
                await RegistryRepository(connection).get_model(wish.model)
            name = wish.name or str(new_id())
            known = await ParticipantRepository(connection).get_by_name_or_none(name)
        participant_id = new_id() if known is None else known.id
        key = await self._keys.create_key(
            tenant_id, name=f"participant {participant_id}", scopes=[Scope.FEDERATED_PARTICIPATE]
        )
        values = {"key_id": key.id, "key_prefix": key.prefix, "tags": _tags(wish)}
        async with self._database.tenant(tenant_id) as connection:
            repository = ParticipantRepository(connection)
            if known is None:
                await repository.add({"id": participant_id, "tenant_id": tenant_id, "name": name, **values})
            else:
                await repository.renew(participant_id, **values)
        if known is not None and known.key_prefix is not None:
            await self._keys.revoke_key(known.key_prefix)
        return Enrolled(participant_id, key.text)

    async def lease(self, caller: Caller, wish: LeaseRequest) -> Leased | NoPlace:
        """A place in an open round; the one it has already where it asks again. Raises NotFound and InvalidInput."""
        async with self._database.tenant(caller.tenant_id) as connection:
            participant = await self._participant(connection, caller, wish.participant_id)
            if participant.seen_at < datetime.now(UTC) - _SEEN_EVERY:
                await ParticipantRepository(connection).renew(participant.id)
            rounds = RoundRepository(connection)
            found = [one for one in await rounds.find_open(participant, wish.model) if _is_for(participant, one)]
            for candidate in found:
                leased = await self._take(rounds, participant, candidate)
                if leased is not None:
                    self._metrics.leases.labels("leased").inc()
                    return leased
            waiting = await ParticipantRepository(connection).count()
            busy = await RegistryRepository(connection).is_any_claimed()
        seconds = pace_seconds(busy=busy, waiting=waiting, chance=self._chance.random())
        return NoPlace(timedelta(seconds=seconds))

    async def heartbeat(self, caller: Caller, lease_id: UUID, token: str | None) -> datetime:
        """A sign of life; until when the lease is good now. Raises NotFound and RoundClosed."""
        async with self._database.tenant(caller.tenant_id) as connection:
            context = await self.own_lease(connection, caller, lease_id, token)
            if context.closed:
                raise RoundClosed(_CLOSED)
            until = _until(context)
            await RoundRepository(connection).renew_lease(lease_id, expires_at=until)
            return until

    async def own_lease(self, connection: AsyncConnection, caller: Caller, lease_id: UUID, token: str | None) -> AnyRow:
        """The lease with its context, if it is the caller's. Raises NotFound."""
        context = await RoundRepository(connection).get_context(lease_id)
        if Scope.FEDERATED_WRITE not in caller.scopes:
            participant = await ParticipantRepository(connection).get_by_key_or_none(caller.key_id)
            if participant is None or participant.id != context.participant_id:
                raise NotFound("there is no such lease")
        if token is not None and not hmac.compare_digest(token_hash(token), bytes(context.token_hash)):
            raise NotFound("there is no such lease")
        return context

    async def _participant(self, connection: AsyncConnection, caller: Caller, named: UUID | None) -> AnyRow:
        repository = ParticipantRepository(connection)
        own = await repository.get_by_key_or_none(caller.key_id)
        if own is not None and named in {None, own.id}:
            return own
        if named is None:
            fault = FieldFault("/participant_id", "is needed with a key that is not a participant's")
            raise InvalidInput("who takes part is not known", faults=[fault])
        if Scope.FEDERATED_WRITE not in caller.scopes:
            raise NotFound("there is no such participant")
        return await repository.get_one(named)

    async def _take(self, rounds: RoundRepository, participant: AnyRow, found: AnyRow) -> Leased | None:
        # The id follows from who takes part in what: asking again can never be a second place.
        lease_id = uuid5(found.id, str(participant.id))
        token, until = secrets.token_urlsafe(24), _until(found)
        # A look without a lock first: those who find a full round do not queue up behind those with updates.
        if found.leased >= found.selected and not await rounds.may_have_place(found.id, lease_id):
            return None
        # From here on the same participant, asking from another hand, waits for what is decided.
        if not await rounds.lock_open(found.id):
            return None
        known = await rounds.get_lease_or_none(lease_id)
        if known is not None and known.state == "accepted":
            return None
        if known is not None and known.live:
            await rounds.renew_lease(lease_id, expires_at=until, token_hash=token_hash(token))
        elif await rounds.take_slot(found.id):
            values = {"expires_at": until, "token_hash": token_hash(token)}
            keys = {"id": lease_id, "tenant_id": found.tenant_id, "round_id": found.id}
            await rounds.put_lease({**keys, "participant_id": participant.id, **values})
        else:
            return None
        return Leased(lease_id, token, found, until)


def _is_for(participant: AnyRow, found: AnyRow) -> bool:
    """Whether a participant that has enrolled for one model did so for this one."""
    models = [tag for tag in participant.tags if tag.startswith(_MODEL_TAG)]
    return not models or f"{_MODEL_TAG}{found.model}" in models


_CLOSED: Final = "the round takes no more updates"


def token_hash(token: str) -> bytes:
    """What is kept of a lease's token: it has 192 random bits, so there is nothing to guess."""
    return hashlib.sha256(token.encode()).digest()


def _until(found: AnyRow) -> datetime:
    seconds = found.limits.get("lease_seconds")
    return lease_ends(datetime.now(UTC), lease_seconds=seconds, deadline=found.deadline)


def _tags(wish: EnrolmentRequest) -> list[str]:
    labels: Mapping[str, Any] = wish.labels
    tags = [f"{name}:{value}" for name, value in sorted(labels.items())]
    return tags if wish.model is None else [*tags, f"{_MODEL_TAG}{wish.model}"]
