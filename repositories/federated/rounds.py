"""Rounds, and who takes part in them. Whoever locks a round and a lease locks the round first."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Double, Select, Text, and_, cast, func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import NotFound
from domain.federated_rounds import FINAL, RoundState
from domain.jobs import TERMINAL
from repositories.rows import AnyRow
from repositories.tables import fl_leases, fl_models, fl_participants, fl_rounds, fl_versions, jobs

_OPEN_JOB = jobs.c.status.not_in(sorted(TERMINAL))

_VACANT = and_(fl_leases.c.state == "leased", fl_leases.c.expires_at < func.now())

# A slot goes back when its lease has run out; then the round has a place if fewer are taken than are to be asked.
# For those who have locked the round: this touches leases first.
_take_slot = text(
    """
    WITH freed AS (
        UPDATE fl_leases SET state = 'expired'
        WHERE round_id = :round_id AND state = 'leased' AND expires_at < now()
        RETURNING 1
    )
    UPDATE fl_rounds
    SET leased = leased - (SELECT count(*) FROM freed) + 1, handed_out = handed_out + 1
    WHERE id = :round_id AND state = 'open' AND accepted < goal AND deadline > now()
      AND leased - (SELECT count(*) FROM freed) < selected
    RETURNING leased
    """
)


class ParticipantRepository:
    """The participants of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, values: Mapping[str, Any]) -> None:
        """Write a participant down."""
        await self._connection.execute(insert(fl_participants).values(**values))

    async def get_by_name_or_none(self, name: str) -> AnyRow | None:
        """The participant of that name."""
        query = select(fl_participants).where(fl_participants.c.name == name)
        return (await self._connection.execute(query)).one_or_none()

    async def renew(self, participant_id: UUID, **values: Any) -> None:
        """Change what is known about a participant, and that it was seen now."""
        await self._connection.execute(
            update(fl_participants).where(fl_participants.c.id == participant_id).values(**values, seen_at=func.now())
        )

    async def get_by_key_or_none(self, key_id: UUID) -> AnyRow | None:
        """The participant whose key this is."""
        query = select(fl_participants).where(fl_participants.c.key_id == key_id)
        return (await self._connection.execute(query)).one_or_none()

    async def get_one(self, participant_id: UUID) -> AnyRow:
        """The participant. Raises NotFound."""
        query = select(fl_participants).where(fl_participants.c.id == participant_id)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such participant")
        return found

    async def count(self) -> int:
        """How many there are, roughly: those seen within a day."""
        recent = fl_participants.c.seen_at > func.now() - text("interval '1 day'")
        return (await self._connection.execute(select(func.count()).where(recent))).scalar_one()


class RoundRepository:
    """The rounds and leases of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- rounds -------------------------------------------------------------------------------------

    async def get_rounds(self, job_id: UUID) -> Sequence[AnyRow]:
        """The rounds of a cycle in order."""
        query = select(fl_rounds).where(fl_rounds.c.job_id == job_id).order_by(fl_rounds.c.number)
        found: Sequence[AnyRow] = (await self._connection.execute(query)).all()
        return found

    async def get_page(self, job_id: UUID, *, after: int, limit: int) -> Sequence[AnyRow]:
        """Rounds of a cycle with a number above ``after``, in order, each with its version's number and metrics."""
        query = (
            select(fl_rounds, fl_versions.c.number.label("version"), fl_versions.c.metrics, fl_versions.c.sha256)
            .outerjoin(fl_versions, fl_versions.c.id == fl_rounds.c.version_id)
            .where(fl_rounds.c.job_id == job_id, fl_rounds.c.number > after)
            .order_by(fl_rounds.c.number)
            .limit(limit)
        )
        found: Sequence[AnyRow] = (await self._connection.execute(query)).all()
        return found

    async def get_round(self, job_id: UUID, number: int) -> AnyRow:
        """The round. Raises NotFound."""
        query = select(fl_rounds).where(fl_rounds.c.job_id == job_id, fl_rounds.c.number == number)
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such round")
        return found

    async def lock_round(self, job_id: UUID, number: int) -> AnyRow:
        """The round, locked until the end of the transaction. Raises NotFound."""
        query = select(fl_rounds).where(fl_rounds.c.job_id == job_id, fl_rounds.c.number == number)
        found = (await self._connection.execute(query.with_for_update(key_share=True))).one_or_none()
        if found is None:
            raise NotFound("there is no such round")
        return found

    async def add_round(self, values: Mapping[str, Any], *, seconds: float) -> AnyRow:
        """Open a round for so many seconds."""
        deadline = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, cast(seconds, Double))
        made: AnyRow = (
            await self._connection.execute(insert(fl_rounds).values(**values, deadline=deadline).returning(fl_rounds))
        ).one()
        return made

    async def set_round(self, round_id: UUID, **values: Any) -> None:
        """Change a round."""
        state = values.get("state")
        if state in FINAL:
            values["finished_at"] = func.now()
        await self._connection.execute(update(fl_rounds).where(fl_rounds.c.id == round_id).values(**values))

    async def close_leases(self, round_id: UUID) -> int:
        """The round waits for nobody any more; how many were still expected."""
        statement = (
            update(fl_leases)
            .where(fl_leases.c.round_id == round_id, fl_leases.c.state.in_(["leased", "expired"]))
            .values(state="missed")
        )
        return (await self._connection.execute(statement)).rowcount

    async def get_accepted(self, round_id: UUID) -> Sequence[AnyRow]:
        """Digest, length, examples and metrics of every accepted update, in the order of leases' ids."""
        query = (
            select(fl_leases.c.id, fl_leases.c.sha256, fl_leases.c.bytes, fl_leases.c.examples, fl_leases.c.metrics)
            .where(fl_leases.c.round_id == round_id, fl_leases.c.state == "accepted")
            .order_by(fl_leases.c.id)
        )
        found: Sequence[AnyRow] = (await self._connection.execute(query)).all()
        return found

    # --- leases -------------------------------------------------------------------------------------

    async def find_open(self, participant: AnyRow, model: str | None) -> Sequence[AnyRow]:
        """Open rounds that this participant may take part in, oldest first, with what it needs to know of each."""
        query = (
            _with_model()
            .where(
                fl_rounds.c.state == RoundState.OPEN,
                fl_rounds.c.deadline > func.now(),
                fl_rounds.c.accepted < fl_rounds.c.goal,
                _OPEN_JOB,
                fl_rounds.c.tags.op("<@")(cast(participant.tags, ARRAY(Text))),
            )
            .order_by(fl_rounds.c.opened_at)
            .limit(20)
        )
        if model is not None:
            query = query.where(fl_rounds.c.model == model)
        found: Sequence[AnyRow] = (await self._connection.execute(query)).all()
        return found

    async def may_have_place(self, round_id: UUID, lease_id: UUID) -> bool:
        """Whether a full round has a lease that has run out, or this one."""
        found = or_(_VACANT, fl_leases.c.id == lease_id)
        query = select(fl_leases.c.id).where(fl_leases.c.round_id == round_id, found).limit(1)
        return (await self._connection.execute(query)).one_or_none() is not None

    async def lock_open(self, round_id: UUID) -> bool:
        """Lock a round until the end of the transaction; False where it takes nobody any more."""
        query = select(fl_rounds.c.id).where(
            fl_rounds.c.id == round_id,
            fl_rounds.c.state == RoundState.OPEN,
            fl_rounds.c.accepted < fl_rounds.c.goal,
            fl_rounds.c.deadline > func.now(),
        )
        return (await self._connection.execute(query.with_for_update(key_share=True))).one_or_none() is not None

    async def get_lease_or_none(self, lease_id: UUID) -> AnyRow | None:
        """The lease alone; ``live`` where its place is taken and has not run out."""
        live = and_(fl_leases.c.state == "leased", fl_leases.c.expires_at >= func.now()).label("live")
        query = select(fl_leases, live).where(fl_leases.c.id == lease_id)
        return (await self._connection.execute(query)).one_or_none()

    async def get_context(self, lease_id: UUID) -> AnyRow:
        """A lease with everything that judging an update needs. Raises NotFound."""
        query = (
            _with_model()
            .add_columns(
                fl_leases.c.id.label("lease_id"),
                fl_leases.c.state.label("lease_state"),
                fl_leases.c.participant_id,
                fl_leases.c.sha256.label("update_sha256"),
                fl_leases.c.bytes.label("update_bytes"),
                fl_leases.c.examples,
                fl_leases.c.norm,
                fl_leases.c.token_hash,
                fl_leases.c.accepted_at,
                fl_leases.c.expires_at,
                fl_leases.c.reason.label("lease_reason"),
                jobs.c.kind,
                jobs.c.attempt,
                jobs.c.request_id,
                jobs.c.traceparent,
                jobs.c.task_queue,
                jobs.c.priority,
                or_(jobs.c.finished_at.is_not(None), fl_rounds.c.state != RoundState.OPEN).label("closed"),
            )
            .join(fl_leases, fl_leases.c.round_id == fl_rounds.c.id)
            .where(fl_leases.c.id == lease_id)
        )
        found = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound("there is no such lease")
        return found

    async def take_slot(self, round_id: UUID) -> bool:
        """Take a place in the round, which the caller has locked; False where all are taken or it has closed."""
        return (await self._connection.execute(_take_slot, {"round_id": round_id})).one_or_none() is not None

    async def put_lease(self, values: Mapping[str, Any]) -> None:
        """Write a lease down; one of the same participant in the same round that had run out begins anew.

        Raises NoResultFound where it is accepted or missed already, which whoever has locked the round knows before.
        """
        statement = pg_insert(fl_leases).values(**values)
        fresh = {"state": "leased", "expires_at": values["expires_at"], "token_hash": values["token_hash"]}
        open_ = fl_leases.c.state.in_(["leased", "expired"])
        written = statement.on_conflict_do_update(index_elements=["id"], set_=fresh, where=open_)
        (await self._connection.execute(written.returning(fl_leases.c.id))).scalar_one()

    async def renew_lease(self, lease_id: UUID, *, expires_at: datetime, token_hash: bytes | None = None) -> None:
        """A sign of life."""
        values: dict[str, Any] = {"expires_at": expires_at, "heartbeat_at": func.now()}
        if token_hash is not None:
            values["token_hash"] = token_hash
        await self._connection.execute(update(fl_leases).where(fl_leases.c.id == lease_id).values(**values))

    async def refuse(self, lease_id: UUID, round_id: UUID, reason: str) -> None:
        """An update was not acceptable; the lease stays, for a better one."""
        refused = update(fl_rounds).where(fl_rounds.c.id == round_id).values(refused=fl_rounds.c.refused + 1)
        await self._connection.execute(refused)
        await self._connection.execute(
            update(fl_leases).where(fl_leases.c.id == lease_id).values(refusals=fl_leases.c.refusals + 1, reason=reason)
        )

    async def accept(self, context: AnyRow, values: Mapping[str, Any]) -> AnyRow | None:
        """Count an update; the round's counts with it. None where the round takes none, or the lease has one."""
        locked = (
            select(fl_rounds.c.id)
            .where(
                fl_rounds.c.id == context.id,
                fl_rounds.c.state == RoundState.OPEN,
                fl_rounds.c.accepted < fl_rounds.c.goal,
            )
            .with_for_update(key_share=True)
        )
        if (await self._connection.execute(locked)).one_or_none() is None:
            return None
        taken = (
            update(fl_leases)
            .where(fl_leases.c.id == context.lease_id, fl_leases.c.state.in_(["leased", "expired"]))
            .values(state="accepted", reason=None, accepted_at=func.now(), **values)
            .returning(fl_leases.c.id)
        )
        if (await self._connection.execute(taken)).one_or_none() is None:
            return None
        counted = (
            update(fl_rounds)
            .where(fl_rounds.c.id == context.id)
            .values(accepted=fl_rounds.c.accepted + 1)
            .returning(fl_rounds.c.accepted, fl_rounds.c.goal, fl_rounds.c.number)
        )
        found: AnyRow = (await self._connection.execute(counted)).one()
        return found


def _with_model() -> Select[Any]:
    """Rounds with their model and the version they start from."""
    return (
        select(
            fl_rounds,
            fl_models.c.family,
            fl_models.c.schema,
            fl_models.c.bytes.label("model_bytes"),
            fl_versions.c.sha256.label("base_sha256"),
            fl_versions.c.bytes.label("base_bytes"),
        )
        .join(fl_models, fl_models.c.name == fl_rounds.c.model)
        .join(fl_versions, fl_versions.c.id == fl_rounds.c.base_id)
        .join(jobs, jobs.c.id == fl_rounds.c.job_id)
    )
