"""Five hundred seeded schedules of deaths and faults around a paid text: none bought twice, none lost.

Judged by the stand-in's history, which is what was paid for. A death is an exception that nobody catches, between any
two things that a worker does; the next attempt knows only what is in the database, the store and the history.
"""

import random
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from activities.media.paid_speech import PaidSpeech, PieceWish, SpokenPiece
from activities.steps import StepKeeper
from core.database import Database
from core.http import HttpTimeouts, create_http_client
from core.metrics import WorkerMetrics
from core.store import ArtifactStore
from domain.errors import ProviderError
from domain.jobs import JobRef
from domain.media import SpeechModel, SpeechRequest
from gateways.elevenlabs import ElevenLabsSpeech
from gateways.standin_elevenlabs import Fault, FaultKind, StandInElevenLabs
from repositories.generation import CallDesk
from tests.support.job_rows import add_running_job, call_rows, next_attempt

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SCHEDULES: Final = 500
TERMS: Final = SpeechModel(usd_per_1000_characters=Decimal("0.30"), max_characters=10_000)
TIMEOUTS: Final = HttpTimeouts(connect=30, read=30, write=30, pool=30)
MOST_TRIES: Final = 20
DEATHS: Final = (
    "after reserve", "before speak", "after speak", "after put", "before settle", "after settle", "before close",
    "after find",
)  # fmt: skip
FAULTS: Final = (
    Fault(kind=FaultKind.DROP_BEFORE),
    Fault(kind=FaultKind.DROP_AFTER),
    Fault(kind=FaultKind.STATUS_AFTER, status=502),
    Fault(kind=FaultKind.STATUS_BEFORE, status=500),
    Fault(kind=FaultKind.STATUS_BEFORE, status=429, code="concurrent_limit_exceeded"),
    Fault(kind=FaultKind.STATUS_BEFORE, status=429, code="system_busy", shape="old"),
    Fault(kind=FaultKind.BROKEN_OFF),
    Fault(kind=FaultKind.CUT_SHORT),
    Fault(kind=FaultKind.STATUS_BEFORE, path="history", status=500),
    Fault(kind=FaultKind.DROP_BEFORE, path="audio"),
    Fault(kind=FaultKind.BROKEN_OFF, path="audio"),
)


class Death(BaseException):
    """The worker is gone."""


class Doomed:
    """Something that works as it should, unless a death is due before or after it."""

    def __init__(self, inner: Any, due: list[str]) -> None:
        self._inner = inner
        self._due = due

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def doomed(*arguments: Any, **more: Any) -> Any:
            return self._call(name, found, arguments, more)

        return doomed if name in {"reserve", "close", "settle", "speak", "find", "put"} else found

    async def _call(self, name: str, found: Any, arguments: Any, more: Any) -> Any:
        self._die(f"before {name}")
        answer = await found(*arguments, **more)
        self._die(f"after {name}")
        return answer

    def _die(self, moment: str) -> None:
        if moment in self._due:
            self._due.remove(moment)
            raise Death


@pytest.fixture
async def standin() -> AsyncIterator[StandInElevenLabs]:
    async with StandInElevenLabs(seed=11) as running:
        yield running


async def play(
    database: Database, store: ArtifactStore, voice: ElevenLabsSpeech, job: JobRef, *, wish: PieceWish, due: list[str]
) -> tuple[SpokenPiece, JobRef]:
    """Workers come and go until the text is spoken; a person retries the job where that is asked for."""
    for _ in range(MOST_TRIES):
        calls = PaidSpeech(
            database, store, StepKeeper(database), WorkerMetrics(CollectorRegistry()), look_pauses_seconds=(0.0,),
            settled_seconds=0,
        )  # fmt: skip
        calls._desk = Doomed(CallDesk(database), due)  # type: ignore[assignment]
        calls._store = Doomed(store, due)  # type: ignore[assignment]
        try:
            return await calls.speak(job, Doomed(voice, due), wish), job
        except Death:
            continue
        except ProviderError as fault:
            if fault.code == "E.ELEVENLABS.IN_DOUBT":
                job = await next_attempt(database, job)
            elif not fault.may_retry:
                raise
    raise AssertionError("not spoken in the end")


async def test_none_bought_twice_none_lost(
    database: Database, store: ArtifactStore, tenant_id: UUID, standin: StandInElevenLabs
) -> None:
    """And the ledger has every cent of it."""
    async with create_http_client(timeout=TIMEOUTS, proxy=None, user_agent="longhaul-test") as http:
        voice = ElevenLabsSpeech(
            client=http, base_url=standin.origin, api_key="xi-test-0123456789", default_voice="v",
            default_model="eleven_multilingual_v2", models={"eleven_multilingual_v2": TERMS}, at_once=5,
        )  # fmt: skip
        for seed in range(SCHEDULES):
            rng = random.Random(seed)  # noqa: S311 - no secret
            standin.reset()
            due = [rng.choice(DEATHS) for _ in range(rng.randrange(4))]
            standin.faults.add(*(rng.choice(FAULTS) for _ in range(rng.randrange(4))))
            job = await add_running_job(database, tenant_id)
            request = SpeechRequest(
                text=f"Text number {seed}.", voice="v", model="eleven_multilingual_v2", language="en"
            )
            wish = PieceWish(op=f"op-{seed}", step="lesson-1.1/audio", request=request, terms=TERMS)
            piece, job = await play(database, store, voice, job, wish=wish, due=due)
            (take,) = standin.studio.takes
            calls = PaidSpeech(database, store, StepKeeper(database), WorkerMetrics(CollectorRegistry()))
            assert await calls.read(job, piece) == take.audio, seed
            (row,) = await call_rows(database, job)
            assert (row.state, row.settled_usd) == ("done", TERMS.cost_of(len(take.text))), seed
