"""Paid speech on a real ledger, against the stand-in over a socket. Judged by the stand-in's history: that is paid."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select
from temporalio.testing import ActivityEnvironment

from activities.generation.costs import CostWatch
from activities.media.paid_speech import PaidSpeech, PieceWish
from activities.steps import StepKeeper
from core.database import Database
from core.http import HttpTimeouts, create_http_client
from core.metrics import WorkerMetrics
from core.store import ArtifactStore
from domain.errors import BudgetExceeded, Outcome, ProviderError, SpeechUnavailable, Superseded
from domain.jobs import JobRef
from domain.media import SpeechModel, SpeechRequest
from gateways.elevenlabs import ElevenLabsSpeech
from gateways.offline_speech import OfflineSpeech
from gateways.standin_elevenlabs import Fault, FaultKind, StandInElevenLabs
from repositories.generation import CallDesk, NewCall
from repositories.tables import job_events
from tests.support.job_rows import add_running_job, call_rows, finish_job, next_attempt

KEY = "xi-test-0123456789"
TERMS = SpeechModel(usd_per_1000_characters=Decimal("0.30"), max_characters=10_000)
TEXT = "The tide comes in, and the tide goes out. "


@pytest.fixture
async def standin() -> AsyncIterator[StandInElevenLabs]:
    async with StandInElevenLabs(seed=3, concurrency=2) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    timeouts = HttpTimeouts(connect=10, read=5, write=10, pool=10)
    async with create_http_client(timeout=timeouts, proxy=None, user_agent="longhaul-test") as client:
        yield client


@pytest.fixture
def voice(standin: StandInElevenLabs, http: httpx.AsyncClient) -> ElevenLabsSpeech:
    return ElevenLabsSpeech(
        client=http, base_url=standin.origin, api_key=KEY, default_voice="v", default_model="eleven_multilingual_v2",
        models={"eleven_multilingual_v2": TERMS}, at_once=2,
    )  # fmt: skip


@pytest.fixture
def calls(database: Database, store: ArtifactStore) -> PaidSpeech:
    """Paid speech that looks again without a pause."""
    metrics = WorkerMetrics(CollectorRegistry())
    return PaidSpeech(database, store, StepKeeper(database), metrics, look_pauses_seconds=(0.0, 0.0), settled_seconds=0)


@pytest.fixture
async def job(database: Database, tenant_id: UUID) -> JobRef:
    return await add_running_job(database, tenant_id)


def wish(op: str = "op-1", text: str = TEXT * 3) -> PieceWish:
    request = SpeechRequest(text=text.strip(), voice="v", model="eleven_multilingual_v2", language="en")
    return PieceWish(op=op, step="lesson-1.1/audio", request=request, terms=TERMS)


async def until_done(
    calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, wanted: PieceWish, *, tries: int = 5
) -> list[str]:
    """Try as Temporal does, as long as an error allows it; the codes on the way."""
    codes = []
    for _ in range(tries):
        try:
            await calls.speak(job, voice, wanted)
        except ProviderError as fault:
            codes.append(fault.code)
            if not fault.may_retry:
                return codes
        else:
            return codes
    raise AssertionError(codes)


class TestOnce:
    async def test_a_recording_is_remembered_and_settled(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        """The second time the same op costs nothing and has the same bytes."""
        first = await calls.speak(job, voice, wish())
        again = await calls.speak(job, voice, wish())
        assert again == first
        (take,) = standin.studio.takes
        assert await calls.read(job, first) == take.audio
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends, row.lost_usd, row.provider) == (Outcome.DONE, 1, 0, "elevenlabs")
        assert row.settled_usd == row.reserved_usd == first.cost_usd == TERMS.cost_of(len(wish().request.text))

    async def test_an_expensive_job_is_told_of_once(
        self, database: Database, store: ArtifactStore, job: JobRef, voice: ElevenLabsSpeech
    ) -> None:
        metrics = WorkerMetrics(CollectorRegistry())
        watch = CostWatch(database, metrics, alert_usd=TERMS.cost_of(len(wish().request.text)) * Decimal("1.5"))
        calls = PaidSpeech(database, store, StepKeeper(database), metrics, watch=watch)
        told = []
        for op in ("op-1", "op-2", "op-3"):
            await calls.speak(job, voice, wish(op))
            async with database.tenant(job.tenant_id) as connection:
                seen = await connection.execute(select(job_events.c.seq).where(job_events.c.type == "cost.alert"))
                told.append(len(seen.all()))
        assert told == [0, 1, 1]

    @pytest.mark.parametrize(
        "kind",
        [
            FaultKind.DROP_AFTER, FaultKind.STATUS_AFTER, FaultKind.BROKEN_OFF, FaultKind.CUT_SHORT,
            FaultKind.SILENCE_AFTER,
        ],
    )  # fmt: skip
    async def test_what_got_lost_is_taken_from_the_history(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs,
        *, kind: FaultKind,
    ) -> None:  # fmt: skip
        standin.faults.add(Fault(kind=kind))
        assert len(await until_done(calls, job, voice, wish())) == 1
        (take,) = standin.studio.takes
        piece = await calls.speak(job, voice, wish())
        assert await calls.read(job, piece) == take.audio
        assert piece.request_id == take.request_id
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends, row.lost_usd) == (Outcome.DONE, 1, 0)

    async def test_a_worker_killed_while_they_speak(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        """The reservation says that a call may be out; it is looked for, and not paid again."""
        standin.delay = 0.5
        dying = asyncio.create_task(calls.speak(job, voice, wish()))
        await standin.until(lambda: standin.studio.account(KEY).in_flight == 1)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        await standin.until(lambda: len(standin.studio.takes) == 1)
        await calls.speak(job, voice, wish())
        assert len(standin.studio.takes) == 1
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends) == (Outcome.DONE, 1)

    async def test_a_worker_killed_before_it_settled(
        self, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """It had the recording in its hands."""

        async def die(*_args: Any, **_more: Any) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(CallDesk, "settle", die)
            with pytest.raises(asyncio.CancelledError):
                await calls.speak(job, voice, wish())
        await calls.speak(job, voice, wish())
        assert len(standin.studio.takes) == 1

    async def test_two_attempts_at_once_pay_once_or_say_so(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        """One that Temporal has given up and its successor: the ledger never has less than was paid."""
        await asyncio.gather(*(calls.speak(job, voice, wish()) for _ in range(2)), return_exceptions=True)
        (row,) = await call_rows(database, job)
        paid = sum((TERMS.cost_of(len(take.text)) for take in standin.studio.takes), Decimal(0))
        assert row.settled_usd + row.lost_usd >= paid

    async def test_a_canceled_activity_pays_nothing(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        """Even where the cancellation was swallowed on its way."""
        environment = ActivityEnvironment()

        async def deaf() -> None:
            environment.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            await calls.speak(job, voice, wish())

        with pytest.raises(asyncio.CancelledError):
            await environment.run(deaf)
        assert standin.requests == []
        assert await call_rows(database, job) == []

    async def test_a_finished_job_pays_nothing(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        await finish_job(database, job)
        with pytest.raises(Superseded):
            await calls.speak(job, voice, wish())
        assert standin.requests == []


class TestTrouble:
    @pytest.mark.parametrize("code", ["concurrent_limit_exceeded", "system_busy"])
    async def test_not_now_is_tried_again(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs,
        *, code: str,
    ) -> None:  # fmt: skip
        """An explicit refusal needs no look and loses nothing."""
        standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, status=429, code=code, times=2))
        assert len(await until_done(calls, job, voice, wish())) == 2
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends, row.lost_usd, len(standin.studio.takes)) == (Outcome.DONE, 3, 0, 1)

    @pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (401, "quota_exceeded"), (422, "missing")])
    async def test_no_is_not_asked_again(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs,
        *, status: int, code: str,
    ) -> None:  # fmt: skip
        standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, status=status, code=code))
        assert len(await until_done(calls, job, voice, wish())) == 1
        (row,) = await call_rows(database, job)
        assert (row.state, len(standin.studio.takes)) == (Outcome.REJECTED, 0)

    async def test_what_was_never_spoken_is_sent_once_more(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        """After a look; what it may have cost counts as lost."""
        standin.faults.add(Fault(kind=FaultKind.DROP_BEFORE))
        assert await until_done(calls, job, voice, wish()) == ["E.ELEVENLABS.CONNECTION"]
        (row,) = await call_rows(database, job)
        assert (row.state, row.sends, row.lost_usd) == (Outcome.DONE, 2, row.reserved_usd)
        assert len(standin.studio.takes) == 1

    async def test_a_refusal_of_the_second_send_is_no_answer_about_the_first(
        self, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """The first was spoken after all, and shows in the history only after the second was told "not now"."""
        standin.faults.add(Fault(kind=FaultKind.DROP_AFTER))
        with pytest.raises(ProviderError):
            await calls.speak(job, voice, wish())

        async def find_nothing(*_args: Any, **_more: Any) -> None:
            return None

        with monkeypatch.context() as patch:
            patch.setattr(voice, "find", find_nothing)
            standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, status=429, code="system_busy"))
            with pytest.raises(ProviderError) as refused:
                await calls.speak(job, voice, wish())
        assert refused.value.outcome is Outcome.REJECTED
        piece = await calls.speak(job, voice, wish())
        (take,) = standin.studio.takes
        assert await calls.read(job, piece) == take.audio

    async def test_a_refusal_does_not_use_up_the_second_send(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        """Of sends in doubt there are as many as attempts, and one; what was refused is not in doubt."""
        standin.faults.add(
            Fault(kind=FaultKind.DROP_BEFORE),
            Fault(kind=FaultKind.STATUS_BEFORE, status=429, code="system_busy", times=2),
            Fault(kind=FaultKind.DROP_BEFORE),
        )
        codes = await until_done(calls, job, voice, wish())
        assert (len(codes), codes[-1]) == (5, "E.ELEVENLABS.IN_DOUBT")
        (row,) = await call_rows(database, job)
        assert (row.sends, row.lost_usd) == (4, row.reserved_usd)
        assert standin.studio.takes == []

    async def test_twice_without_a_trace_is_for_a_person(
        self, database: Database, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        """Who retries the job decides that it is sent once more."""
        standin.faults.add(Fault(kind=FaultKind.DROP_BEFORE, times=3))
        codes = await until_done(calls, job, voice, wish())
        assert codes == ["E.ELEVENLABS.CONNECTION", "E.ELEVENLABS.CONNECTION", "E.ELEVENLABS.IN_DOUBT"]
        assert len(standin.requests) == 2
        again = await next_attempt(database, job)
        codes = await until_done(calls, again, voice, wish())
        assert codes == ["E.ELEVENLABS.CONNECTION", "E.ELEVENLABS.IN_DOUBT"]
        assert len(standin.requests) == 3
        await until_done(calls, await next_attempt(database, again), voice, wish())
        assert len(standin.studio.takes) == 1

    async def test_a_look_that_fails_is_no_reason_to_pay(
        self, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        standin.faults.add(
            Fault(kind=FaultKind.DROP_AFTER),
            Fault(kind=FaultKind.STATUS_BEFORE, path="history", times=2),
            Fault(kind=FaultKind.BROKEN_OFF, path="audio"),
        )
        assert len(await until_done(calls, job, voice, wish())) == 4
        assert len(standin.studio.takes) == 1

    async def test_a_recording_that_comes_late_into_the_history(
        self, database: Database, store: ArtifactStore, job: JobRef, voice: ElevenLabsSpeech,
        standin: StandInElevenLabs,
    ) -> None:  # fmt: skip
        """The second look finds what the first did not: they were still speaking."""
        looks = 0

        async def find(request: SpeechRequest, **more: Any) -> Any:
            nonlocal looks
            looks += 1
            return None if looks == 1 else await real(request, **more)

        real, voice.find = voice.find, find  # type: ignore[method-assign]
        metrics = WorkerMetrics(CollectorRegistry())
        calls = PaidSpeech(
            database, store, StepKeeper(database), metrics, look_pauses_seconds=(0.0, 0.0), settled_seconds=0
        )
        standin.faults.add(Fault(kind=FaultKind.DROP_AFTER))
        await until_done(calls, job, voice, wish())
        assert (looks, len(standin.studio.takes)) == (2, 1)


class TestPauses:
    """How long a call is looked for, by how long nothing was heard of it."""

    @pytest.mark.parametrize(("quiet", "in_all"), [(0.0, 180.0), (100.0, 80.0), (1_000.0, 50.0)])
    def test_until_it_must_have_ended(
        self, database: Database, store: ArtifactStore, quiet: float, in_all: float
    ) -> None:
        calls = PaidSpeech(database, store, StepKeeper(database), WorkerMetrics(CollectorRegistry()))
        pauses = list(calls._pauses(quiet))
        assert (pauses[0], sum(pauses), max(pauses)) == (0.0, in_all, 30.0)


class TestBudget:
    async def test_is_kept_before_the_wire(
        self, database: Database, tenant_id: UUID, calls: PaidSpeech, voice: ElevenLabsSpeech,
        standin: StandInElevenLabs,
    ) -> None:  # fmt: skip
        """Together with what a language model has taken of it."""
        price = TERMS.cost_of(len(wish().request.text))
        job = await add_running_job(database, tenant_id, budget_usd=price + Decimal("0.5"))
        model_call = NewCall("m", "lesson-1.1", "openai", "gpt-x", Decimal("0.500001"))
        assert await CallDesk(database).reserve(job, model_call, budgeted=True)
        with pytest.raises(BudgetExceeded):
            await calls.speak(job, voice, wish())
        assert standin.requests == []
        assert [row.op for row in await call_rows(database, job)] == ["m"]

    async def test_allows_what_fits(
        self, database: Database, tenant_id: UUID, calls: PaidSpeech, voice: ElevenLabsSpeech
    ) -> None:
        job = await add_running_job(database, tenant_id, budget_usd=TERMS.cost_of(len(wish().request.text)))
        await calls.speak(job, voice, wish())
        with pytest.raises(BudgetExceeded):
            await calls.speak(job, voice, wish("op-2"))


class TestConcurrency:
    async def test_never_more_at_once_than_the_plan_allows(
        self, calls: PaidSpeech, job: JobRef, voice: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        """The stand-in would refuse; it never has to."""
        standin.delay = 0.05
        async with asyncio.timeout(120):
            await asyncio.gather(*(calls.speak(job, voice, wish(f"op-{number}")) for number in range(6)))
        assert standin.studio.account(KEY).most_in_flight == 2
        assert len(standin.studio.takes) == len(standin.requests) == 6


class TestOffline:
    async def test_a_missing_program_leaves_nothing_open(
        self, database: Database, calls: PaidSpeech, job: JobRef
    ) -> None:
        offline = OfflineSpeech(program="no-such-program")
        free = offline.choose(language="en", voice=None, model=None).terms
        request = SpeechRequest(text="Hello.", voice="en", model="espeak-ng", language="en")
        with pytest.raises(SpeechUnavailable):
            await calls.speak(job, offline, PieceWish("op", "lesson-1.1/audio", request, free))
        (row,) = await call_rows(database, job)
        assert (row.state, row.reserved_usd) == (Outcome.NOT_SENT, 0)
