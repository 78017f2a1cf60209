"""Orders on real Temporal: a worker of publishing in this process, and the use cases over it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prometheus_client import CollectorRegistry
from temporalio.client import Client
from temporalio.worker import Worker

from activities.jobs import JobActivities
from core.ids import new_id
from core.metrics import WorkerMetrics
from core.temporal import workflow_sandbox
from gateways.standin_telegram import StandInTelegram
from gateways.webhooks import GuardedClient
from repositories.rows import AnyRow
from services.commands import CommandSender
from services.jobs import JobRequest, JobService
from services.kinds import KindRegistry
from services.publishing.dialogs import DialogService, OrderBooker
from services.publishing.kinds import publishing_kinds
from services.publishing.orders import PublishingService
from tests.support.publishing import BOX, Shop, publishing_of
from tests.support.waiting import eventually
from worker import publishing_activities
from workflows.dialog import DialogWorkflow
from workflows.publishing import CheckWorkflow, OrderWorkflow
from workflows.sequences import SequenceWorkflow


@dataclass
class Orders:
    """One tenant's orders, from the booking to the report."""

    shop: Shop
    client: Client
    jobs: JobService
    service: PublishingService
    dialogs: DialogService

    @property
    def standin(self) -> StandInTelegram:
        """The other side."""
        return self.shop.standin

    async def book(
        self,
        channel: AnyRow,
        text: str,
        *,
        within: float = 0.6,
        lasts: float = 3_600,
        key: str | None = None,
        **more: Any,
    ) -> UUID:
        """Book a post that goes out in a moment; the id of the order."""
        starts = datetime.now(UTC) + timedelta(seconds=within)
        slot_id = await self.shop.add_slot(channel, starts, lasts=timedelta(seconds=lasts))
        return await self.order(slot_id, text, **more)

    async def order(self, slot_id: UUID, text: str, *, key: str | None = None, **more: Any) -> UUID:
        """Order a slot."""
        wish = {"slot_id": str(slot_id), "content": {"text": text}, **more}
        started = await self.jobs.start(self.shop.tenant_id, JobRequest(kind="publishing.order", input=wish), key=key)
        order_id: UUID = started.document.id
        return order_id

    async def until(self, order_id: UUID, *states: str, within: float = 15) -> AnyRow:
        """The order as soon as it is in one of the states."""
        return await eventually(lambda: self.shop.order(order_id), lambda row: row.state in states, within=within)

    async def until_job(self, order_id: UUID, *statuses: str, within: float = 15) -> AnyRow:
        """The order as soon as its job is there."""
        return await eventually(
            lambda: self.shop.order(order_id), lambda row: row.job_status in statuses, within=within
        )


@asynccontextmanager
async def serving_orders(client: Client, shop: Shop) -> AsyncIterator[Orders]:
    """A worker on a queue of its own."""
    queue = f"publishing-{new_id()}"
    guarded = GuardedClient(shop.http)
    doing = JobActivities(shop.database, WorkerMetrics(CollectorRegistry()))
    kinds = [
        replace(kind, task_queue=queue) for kind in publishing_kinds(shop.database, max_orders=1_000, exempt_hosts=())
    ]
    jobs = JobService(
        shop.database, KindRegistry(kinds), CommandSender(client, timeout=timedelta(seconds=5)), max_running=100,
        keep_keys=timedelta(hours=72),
    )  # fmt: skip
    post = publishing_of(shop.desk, guarded, OrderBooker(jobs))
    dialogs = DialogService(shop.database, client, task_queue=queue)
    async with Worker(
        client,
        task_queue=queue,
        workflows=[OrderWorkflow, SequenceWorkflow, CheckWorkflow, DialogWorkflow],
        activities=[doing.begin_job, doing.plan_steps, doing.finish_job, *publishing_activities(post)],
        workflow_runner=workflow_sandbox("tests"),
    ):
        service = PublishingService(shop.database, jobs, client, BOX, exempt_hosts=())
        yield Orders(shop, client, jobs, service, dialogs)
