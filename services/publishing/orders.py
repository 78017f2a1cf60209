"""Channels, slots and orders as people use them. What a sleeping workflow has armed is asked of the workflow itself."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.service import RPCError, RPCStatusCode

from activities.publishing.orders import ChangeOrderInput
from core.database import Database
from core.ids import new_id
from core.sealing import SecretBox
from domain.errors import FieldFault, InvalidInput, NotFound, StateError, TemporalUnavailable
from domain.jobs import TERMINAL, JobRef, workflow_id
from domain.publishing.content import PostContent, render
from domain.publishing.orders import (
    CHECK_KIND,
    OVER,
    Armed,
    Notify,
    OrderChange,
    OrderInput,
    OrderState,
    When,
    check_changeable,
    moment_of,
)
from domain.publishing.times import UnknownZone, zone_of
from repositories.publishing.channels import ChannelRepository, CredentialRepository, SlotRepository
from repositories.publishing.orders import ASKED, OrderRepository
from repositories.rows import AnyRow
from services.jobs import JobRequest, JobService, Started
from services.publishing.kinds import crowd_fault, post_faults, publish_moment, time_faults, times_of, url_fault
from workflows.publishing import Decision

_UPDATE_SECONDS: Final = 15.0
_LONGEST_SLOT: Final = timedelta(days=31)
_ROOM: Final = timedelta(days=366)


class PublishingService:
    """Use cases on channels and orders, for one tenant at a time."""

    def __init__(
        self, database: Database, jobs: JobService, client: Client, box: SecretBox, *, exempt_hosts: Sequence[str]
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._client = client
        self._box = box
        self._exempt_hosts = tuple(exempt_hosts)

    # --- credentials and channels -------------------------------------------------------------------

    async def add_credential(self, tenant_id: UUID, *, name: str, secret: str) -> UUID:
        """Seal a secret; from here on it is named by its id. Raises InvalidInput where the name is taken."""
        made = new_id()
        async with self._database.tenant(tenant_id) as connection:
            await CredentialRepository(connection).add(
                credential_id=made, tenant_id=tenant_id, name=name,
                sealed=self._box.seal(secret, tenant_id=tenant_id, owner=made),
                fingerprint=self._box.fingerprint(secret),
            )  # fmt: skip
        return made

    async def replace_credential(self, tenant_id: UUID, credential_id: UUID, *, secret: str) -> None:
        """Put a new secret under the same id. Raises NotFound."""
        sealed = self._box.seal(secret, tenant_id=tenant_id, owner=credential_id)
        fingerprint = self._box.fingerprint(secret)
        async with self._database.tenant(tenant_id) as connection:
            if not await CredentialRepository(connection).replace(
                credential_id, sealed=sealed, fingerprint=fingerprint
            ):
                raise NotFound("there is no such credential")

    async def connect_channel(self, tenant_id: UUID, wanted: dict[str, Any]) -> tuple[AnyRow, Started]:
        """Write a channel down and have it looked at. Raises InvalidInput."""
        try:
            zone_of(wanted["time_zone"])
        except UnknownZone as fault:
            raise _invalid("/time_zone", str(fault)) from None
        notify = Notify.model_validate(wanted["notify"]).webhook_url
        refused = None if notify is None else url_fault(notify, self._exempt_hosts)
        if refused is not None:
            raise _invalid("/notify/webhook_url", refused)
        async with self._database.tenant(tenant_id) as connection:
            credential_id = wanted["credential_id"]
            if credential_id is not None and await CredentialRepository(connection).get_or_none(credential_id) is None:
                raise _invalid("/credential_id", "is not one of yours")
            channel = await ChannelRepository(connection).add({**wanted, "id": new_id(), "tenant_id": tenant_id})
        return channel, await self.check_channel(tenant_id, channel.id)

    async def check_channel(self, tenant_id: UUID, channel_id: UUID) -> Started:
        """Have a channel looked at again."""
        wish = JobRequest(kind=CHECK_KIND, input={"channel_id": str(channel_id)})
        return await self._jobs.start(tenant_id, wish, key=None)

    # --- slots --------------------------------------------------------------------------------------

    async def offer_slot(self, tenant_id: UUID, channel_id: UUID, *, starts_at: When, ends_at: When) -> AnyRow:
        """Offer a slot. Raises NotFound and InvalidInput: wrong times, and what overlaps another slot."""
        moments = [moment_of(starts_at, "/starts_at"), moment_of(ends_at, "/ends_at")]
        faults = [one for one in moments if isinstance(one, FieldFault)]
        if faults:
            raise InvalidInput("the slot is not possible", faults=faults)
        starts, ends = (one for one in moments if isinstance(one, datetime))
        self._check_slot(starts, ends)
        slot_id = new_id()
        async with self._database.tenant(tenant_id) as connection:
            await ChannelRepository(connection).get_one(channel_id)
            repository = SlotRepository(connection)
            await repository.add(slot_id=slot_id, tenant_id=tenant_id, channel_id=channel_id, starts=starts, ends=ends)
            slot = await repository.get_or_none(slot_id)
        assert slot is not None
        return slot

    def _check_slot(self, starts: datetime, ends: datetime) -> None:
        now = datetime.now(UTC)
        if starts < now:
            raise _invalid("/starts_at", "lies in the past")
        if starts > now + _ROOM:
            raise _invalid("/starts_at", "lies more than a year ahead")
        if not starts < ends <= starts + _LONGEST_SLOT:
            raise _invalid("/ends_at", "has to follow the start, by a month at most")

    async def withdraw_slot(self, tenant_id: UUID, slot_id: UUID) -> None:
        """Take a slot back. Raises NotFound, and StateError where an order holds it."""
        async with self._database.tenant(tenant_id) as connection:
            repository = SlotRepository(connection)
            if await repository.get_or_none(slot_id) is None:
                raise NotFound("there is no such slot")
            if not await repository.withdraw(slot_id):
                raise StateError("an order holds the slot")

    # --- orders -------------------------------------------------------------------------------------

    async def change_order(self, tenant_id: UUID, order_id: UUID, change: OrderChange) -> Armed:
        """Re-book or edit; what the workflow has armed since. Raises InvalidInput, StateError, TemporalUnavailable."""
        async with self._database.tenant(tenant_id) as connection:
            order = await OrderRepository(connection).get_one(order_id, lock=True)
            check_changeable(OrderState(order.state), what="a change")
            wanted = await self._new_times(connection, order, change)
            if change.content is not None:
                wanted["content_sha256"] = await self._keep_pending(connection, order, change.content)
        return await self._ask(
            order,
            "change_order",
            ChangeOrderInput(job=_ref(order), order_id=order_id, **wanted),
        )

    async def _new_times(self, connection: Any, order: AnyRow, change: OrderChange) -> dict[str, Any]:
        if change.slot_id is None and change.publish_at is None:
            return {}
        if order.slot_id is None:
            raise StateError("a delivery of a sequence keeps its time")
        slot = await SlotRepository(connection).get_or_none(change.slot_id or order.slot_id)
        if slot is None or slot.state != "offered" or slot.channel_id != order.channel_id:
            raise _invalid("/slot_id", "is not a slot on offer in the same channel")
        fields = {"slot_id": slot.id, "content": order.content, "publish_at": change.publish_at}
        wanted = OrderInput.model_validate({**order.wish, **fields})
        channel = await ChannelRepository(connection).get_one(order.channel_id)
        moment = publish_moment(wanted, slot)
        faults = [moment] if isinstance(moment, FieldFault) else list(time_faults(moment, slot, channel, wanted))
        if not faults and isinstance(moment, datetime):
            crowded = await crowd_fault(connection, channel, moment, wanted, besides=order.id)
            faults += [crowded] if crowded is not None else []
        if faults or isinstance(moment, FieldFault):
            raise below_root(InvalidInput("the change is not possible", faults=faults))
        return {"slot_id": slot.id, **times_of(wanted, moment, slot)}

    async def _keep_pending(self, connection: Any, order: AnyRow, content: PostContent) -> str:
        faults = post_faults(content)
        if order.approved_sha256 is not None:
            faults.append(FieldFault("/content", "was approved as it is; cancel and order anew"))
        if faults:
            raise InvalidInput("the content is not possible", faults=faults)
        await OrderRepository(connection).change(order.id, pending=content.model_dump(mode="json"))
        return render(content).sha256

    async def cancel_order(self, tenant_id: UUID, order_id: UUID) -> Armed:
        """Cancel; where it is being sent, after the outcome. Raises StateError and TemporalUnavailable."""
        order = await self._get(tenant_id, order_id)
        if OrderState(order.state) in OVER:
            raise StateError(f"the order is {order.state}")
        return await self._ask(order, "cancel_order", None)

    async def resolve_order(
        self, tenant_id: UUID, order_id: UUID, *, decision: str, message_ids: tuple[int, ...]
    ) -> Armed:
        """A person decides about a post in doubt or late. Raises StateError and TemporalUnavailable."""
        async with self._database.tenant(tenant_id) as connection:
            repository = OrderRepository(connection)
            order = await repository.get_one(order_id)
            kinds = {task.kind for task in await repository.get_tasks(order_id) if task.closed_at is None}
        if kinds.isdisjoint(ASKED):
            raise StateError("nothing about this order waits for a person")
        if decision == "sent" and not message_ids:
            raise _invalid("/message_ids", "names the messages that are out")
        return await self._ask(
            order, "resolve_order", Decision(order_id=order_id, decision=decision, message_ids=message_ids)
        )

    async def _get(self, tenant_id: UUID, order_id: UUID) -> AnyRow:
        async with self._database.tenant(tenant_id) as connection:
            return await OrderRepository(connection).get_one(order_id)

    async def _ask(self, order: AnyRow, update: str, argument: Any) -> Armed:
        """Ask the workflow of an order. Raises StateError, InvalidInput and TemporalUnavailable."""
        if order.job_status in TERMINAL:
            raise StateError(f"the order is {order.state} and its job is {order.job_status}")
        handle = self._client.get_workflow_handle(workflow_id(order.kind, order.job_id))
        arguments = [] if argument is None else [argument]
        try:
            async with asyncio.timeout(_UPDATE_SECONDS):
                armed: Armed = await handle.execute_update(update, args=arguments, result_type=Armed)
                return armed
        except WorkflowUpdateFailedError as fault:
            raise _refusal(fault) from None
        except RPCError as fault:
            if fault.status is RPCStatusCode.NOT_FOUND and order.job_status != "queued":
                raise StateError("the order is over") from None
            raise TemporalUnavailable("the order cannot be reached now") from fault
        except (TimeoutError, RuntimeError, WorkflowUpdateRPCTimeoutOrCancelledError) as fault:
            raise TemporalUnavailable("the order does not answer now; look at it before asking again") from fault


def _ref(order: AnyRow) -> JobRef:
    return JobRef(job_id=order.job_id, tenant_id=order.tenant_id, kind=order.kind, attempt=order.attempt)


def _invalid(pointer: str, message: str) -> InvalidInput:
    return InvalidInput("the request is not possible", faults=[FieldFault(pointer, message)])


def below_root(fault: InvalidInput) -> InvalidInput:
    """The same faults, named from the root of a body that is itself the input of a job."""
    faults = [FieldFault(one.pointer.removeprefix("/input"), one.message) for one in fault.faults]
    return InvalidInput(fault.detail, faults=faults)


def _refusal(fault: WorkflowUpdateFailedError) -> StateError | InvalidInput:
    cause: BaseException | None = fault.cause
    while isinstance(cause, FailureError) and not isinstance(cause, ApplicationError):
        cause = cause.cause
    if isinstance(cause, ApplicationError) and cause.type == "E.REQUEST.INVALID":
        return _invalid("/slot_id", "is taken by another order")
    if isinstance(cause, ApplicationError) and cause.type == "E.ORDER.LINKS":
        return _invalid("/content", cause.message)
    return StateError(cause.message if isinstance(cause, ApplicationError) else "the order cannot be changed now")
