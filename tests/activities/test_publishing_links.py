"""Links of a post that give no answer: asked again while there is time, for the fault may be our own."""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import pytest
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.publishing.checks import CheckActivities, LinksStep
from activities.steps import StepKeeper
from core.database import Database
from domain.errors import Outcome, ProviderError
from domain.publishing.content import Button, PostContent
from gateways.standin_telegram import StandInTelegram
from tests.support.publishing import Shop, new_http
from workflows.options import LOOK, REPEATABLE

WITH_LINK = PostContent(text="x", buttons=(Button(text="go", url="http://example.org/"),))


class Silent:
    """No link is heard of."""

    async def fault(self, url: str) -> str | None:
        raise ProviderError(f"no answer from {url}", code="E.ORDER.LINKS", outcome=Outcome.UNKNOWN, retryable=True)


@pytest.fixture
async def shop(database: Database, tenant_id: UUID) -> AsyncIterator[Shop]:
    async with StandInTelegram() as standin, new_http() as http:
        yield Shop(database, tenant_id, standin, http)


async def check(shop: Shop, *, attempt: int, policy: RetryPolicy, late: float) -> str | None:
    """Look at the links of an order that may go out for so many seconds more."""
    channel = await shop.add_channel(-1001)
    job, order_id = await shop.add_order(channel, "", content=WITH_LINK, state="booked", late=late)
    environment = ActivityEnvironment()
    environment.info = replace(ActivityEnvironment.default_info(), attempt=attempt, retry_policy=policy)
    activities = CheckActivities(shop.desk, StepKeeper(shop.database), Silent())
    return await environment.run(activities.check_links, LinksStep(job=job, order_id=order_id))


async def test_is_asked_again_while_there_is_time(shop: Shop) -> None:
    with pytest.raises(ApplicationError) as unanswered:
        await check(shop, attempt=1, policy=REPEATABLE["retry_policy"], late=600)
    assert (unanswered.value.type, unanswered.value.non_retryable) == ("E.ORDER.LINKS", False)


@pytest.mark.parametrize(
    ("attempt", "policy", "late"),
    [
        pytest.param(REPEATABLE["retry_policy"].maximum_attempts, REPEATABLE["retry_policy"], 600, id="the last try"),
        pytest.param(1, LOOK["retry_policy"], 600, id="a change, for whose answer somebody waits"),
        pytest.param(7, REPEATABLE["retry_policy"], 30, id="the next try would be too late for the post"),
    ],
)
async def test_at_last_no_answer_is_one_too(shop: Shop, attempt: int, policy: RetryPolicy, late: float) -> None:
    assert await check(shop, attempt=attempt, policy=policy, late=late) == "link 1 no answer from http://example.org/"
