"""What several modules of these tests stand on."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from temporalio.client import Client

from core.database import Database
from gateways.standin_telegram import StandInTelegram
from tests.support.orders import Orders, serving_orders
from tests.support.publishing import Shop, new_http


@pytest.fixture
async def orders(database: Database, temporal: Client, tenant_id: UUID) -> AsyncIterator[Orders]:
    """A tenant with a stand-in of its own."""
    async with (
        StandInTelegram() as standin,
        new_http() as http,
        serving_orders(temporal, Shop(database, tenant_id, standin, http)) as made,
    ):
        yield made
