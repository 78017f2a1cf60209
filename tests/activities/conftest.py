"""A stand-in for OpenAI behind a socket, the gateway to it, and paid calls over both."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Final

import httpx
import pytest
from prometheus_client import CollectorRegistry

from activities.generation.calls import PaidCalls
from activities.generation.slots import CallSlots
from activities.steps import StepKeeper
from core.database import Database
from core.http import HttpTimeouts, create_http_client
from core.metrics import WorkerMetrics
from domain.generation import Price
from gateways.openai import OpenAILanguageModel
from gateways.standin_openai import StandInOpenAI

PRICE: Final = Price(input_usd=Decimal(2), cached_input_usd=Decimal(1), output_usd=Decimal(8))
TIMEOUTS: Final = HttpTimeouts(connect=5, read=1.0, write=5, pool=5)


@pytest.fixture(scope="session")
async def standin() -> AsyncIterator[StandInOpenAI]:
    """A stand-in for which a call takes a twentieth of a second."""
    async with StandInOpenAI(seed=5, delay=0.05) as running:
        yield running


@pytest.fixture
def server(standin: StandInOpenAI) -> StandInOpenAI:
    """The stand-in with empty accounts and nothing in its script."""
    standin.reset()
    return standin


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client that gives up after a second of silence."""
    async with create_http_client(timeout=TIMEOUTS, proxy=None, user_agent="longhaul-test") as client:
        yield client


@pytest.fixture
def model(http: httpx.AsyncClient, server: StandInOpenAI) -> OpenAILanguageModel:
    """The gateway to the stand-in."""
    return OpenAILanguageModel(
        client=http,
        base_url=server.base_url,
        api_key="sk-test-0123456789",
        default_model="gpt-x",
        prices={"gpt-x": PRICE, "gpt-x-mini": PRICE},
        can_look_up=True,
    )


@pytest.fixture
def calls(database: Database) -> PaidCalls:
    """Paid calls that look again without a pause."""
    metrics = WorkerMetrics(CollectorRegistry())
    pauses = (0.0, 0.0, 0.0)
    return PaidCalls(
        database, StepKeeper(database), metrics, CallSlots(20), look_pauses_seconds=pauses, settled_seconds=0
    )
