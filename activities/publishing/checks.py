"""Looking whether a channel can be published to, and whether the links of a post lead anywhere."""

from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from sqlalchemy import func
from temporalio import activity

from activities.errors import next_retry_at, to_failure
from activities.publishing.desk import PublishingDesk, rendered
from activities.publishing.orders import OrderStep
from activities.steps import StepKeeper
from core.logging import bind_job
from domain.errors import ContentError, InvalidInput, ProviderError
from domain.jobs import JobRef
from domain.publishing.channels import ChannelFacts
from repositories.jobs import JobRepository
from repositories.publishing.channels import ChannelRepository
from repositories.publishing.orders import OrderRepository

CHECK_STEP = "check"


class LinksStep(OrderStep):
    """Links of the post, or of the content that is to replace it."""

    pending: bool = False


class LinkChecker(Protocol):
    """Whoever can tell whether an address of the public internet answers."""

    async def fault(self, url: str) -> str | None:
        """What is wrong with the address; None where it answers. Raises ProviderError where nobody knows yet."""
        ...


class CheckActivities:
    """Looks that change nothing but what we know."""

    def __init__(self, desk: PublishingDesk, keeper: StepKeeper, links: LinkChecker) -> None:
        self._desk = desk
        self._keeper = keeper
        self._links = links

    @activity.defn(name="check_channel")
    async def check_channel(self, job: JobRef) -> None:
        """Look at the rights of the channel; its state says from then on whether it can be booked."""
        async with self._keeper.attempt(job, CHECK_STEP):
            async with self._desk.database.tenant(job.tenant_id) as connection:
                channel_id = UUID((await JobRepository(connection).get_input(job.job_id))["channel_id"])
            counter = await self._desk.counter_of(job.tenant_id, channel_id)
            try:
                facts = await counter.gateway.look_at(counter.secret, counter.target)
            except ProviderError as fault:
                if fault.may_retry:
                    raise
                await self._refuse(job, channel_id, [fault.detail])
                raise
            if facts.faults:
                await self._refuse(job, channel_id, list(facts.faults))
                raise ContentError("; ".join(facts.faults), code="E.CHANNEL.RIGHTS")
            try:
                await self._accept(job, channel_id, facts)
            except InvalidInput as fault:
                # One chat under two names: only now is it known which one it is.
                await self._refuse(job, channel_id, [fault.detail])
                raise ContentError(fault.detail, code="E.CHANNEL.RIGHTS") from fault

    async def _accept(self, job: JobRef, channel_id: UUID, facts: ChannelFacts) -> None:
        rights = facts.model_dump(include={"can_post", "can_edit", "can_delete", "can_pin"})
        async with self._keeper.effect(job) as connection:
            await ChannelRepository(connection).change(
                channel_id, state="ready", chat_id=facts.chat_id, title=facts.title, username=facts.username,
                rights=rights, checked_at=func.now(),
            )  # fmt: skip
            await ChannelRepository(connection).raise_last_id(channel_id, facts.last_message_id)
            await self._keeper.finish_part(
                connection, job, step=CHECK_STEP, part=CHECK_STEP, digest="", result={"state": "ready"},
                event="channel.ready", data={"channel_id": str(channel_id)},
            )  # fmt: skip

    async def _refuse(self, job: JobRef, channel_id: UUID, faults: list[str]) -> None:
        async with self._desk.database.tenant(job.tenant_id) as connection:
            await ChannelRepository(connection).change(
                channel_id, state="refused", rights={"faults": faults}, checked_at=datetime.now(UTC)
            )

    @activity.defn(name="check_links")
    async def check_links(self, step: LinksStep) -> str | None:
        """Which link of the post leads nowhere; None where all answer.

        Where one gives no answer this fails, to be tried again: once there is no other try, or none that would come
        in time for the post, no answer is one too.
        """
        with bind_job(step.job, step="links"):
            async with self._desk.database.tenant(step.job.tenant_id) as connection:
                order = await OrderRepository(connection).get_one(step.order_id)
            content = order.pending if step.pending else order.content
            if content is None or not order.wish.get("check_links", True):
                return None
            for place, url in enumerate(rendered(content).links()):
                try:
                    fault = await self._links.fault(url)
                except ProviderError as unanswered:
                    again_at = next_retry_at(unanswered)
                    if again_at is not None and again_at < order.latest_at:
                        raise to_failure(unanswered) from unanswered
                    fault = unanswered.detail
                if fault is not None:
                    return f"link {place + 1} {fault}"
            return None
