"""The gateway against the stand-in over a socket: what every answer means, and the way back through the history."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from core.http import HttpTimeouts, create_http_client
from domain.audio import MP3
from domain.errors import Outcome, PriceUnknown, ProviderError
from domain.media import SpeechModel, SpeechRequest
from gateways.elevenlabs import ElevenLabsSpeech
from gateways.standin_elevenlabs import Fault, FaultKind, StandInElevenLabs

KEY = "xi-test-0123456789"
MODELS = {
    "eleven_multilingual_v2": SpeechModel(usd_per_1000_characters=Decimal("0.30"), max_characters=10_000),
    "eleven_flash_v2_5": SpeechModel(usd_per_1000_characters=Decimal("0.30"), max_characters=40_000),
}
SECRET_TEXT = "A sentence that nobody else may read. "
HELLO = SpeechRequest(text=SECRET_TEXT * 5, voice="voice-1", model="eleven_multilingual_v2", language="en")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
async def standin() -> AsyncIterator[StandInElevenLabs]:
    async with StandInElevenLabs(seed=3) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    timeouts = HttpTimeouts(connect=10, read=3, write=10, pool=10)
    async with create_http_client(timeout=timeouts, proxy=None, user_agent="longhaul-test") as client:
        yield client


def gateway_to(origin: str, http: httpx.AsyncClient, *, key: str = KEY) -> ElevenLabsSpeech:
    return ElevenLabsSpeech(
        client=http, base_url=origin, api_key=key, default_voice="voice-1", default_model="eleven_multilingual_v2",
        models=MODELS, at_once=5,
    )  # fmt: skip


@pytest.fixture
def gateway(standin: StandInElevenLabs, http: httpx.AsyncClient) -> ElevenLabsSpeech:
    return gateway_to(standin.origin, http)


async def fault_of(gateway: ElevenLabsSpeech, request: SpeechRequest = HELLO) -> ProviderError:
    """The error that a call ends with; whatever it is, it gives nothing away."""
    with pytest.raises(ProviderError) as caught:
        await gateway.speak(request)
    said = f"{caught.value!r} {caught.value.detail} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert KEY not in said
    assert "nobody else" not in said
    return caught.value


class TestSpeak:
    async def test_once(self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs) -> None:
        spoken = await gateway.speak(HELLO)
        (take,) = standin.studio.takes
        assert spoken.audio == take.audio
        assert (spoken.media_type, spoken.request_id) == (MP3, take.request_id)
        assert spoken.characters == Decimal(len(HELLO.text))
        assert standin.requests == [{"text": HELLO.text, "model_id": "eleven_multilingual_v2", "seed": 7}]

    async def test_what_is_billed_is_what_they_say(self, gateway: ElevenLabsSpeech) -> None:
        """Half as much, of a fast model."""
        spoken = await gateway.speak(HELLO.model_copy(update={"model": "eleven_flash_v2_5"}))
        assert spoken.characters == len(HELLO.text) // 2

    async def test_slow_bytes(self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs) -> None:
        standin.faults.add(Fault(kind=FaultKind.SLOW, seconds=1.0))
        assert (await gateway.speak(HELLO)).audio == standin.studio.takes[0].audio

    async def test_a_voice_is_no_path(self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs) -> None:
        with pytest.raises(ProviderError):
            await gateway.speak(HELLO.model_copy(update={"voice": "../history"}))
        assert standin.studio.takes == []


ANSWERS: list[tuple[int, str, str, str, Outcome, bool]] = [
    (401, "invalid_api_key", "old", "E.ELEVENLABS.AUTH", Outcome.REJECTED, False),
    (401, "quota_exceeded", "old", "E.ELEVENLABS.QUOTA", Outcome.REJECTED, False),
    (400, "quota_exceeded", "new", "E.ELEVENLABS.QUOTA", Outcome.REJECTED, False),
    (402, "something_new", "new", "E.ELEVENLABS.QUOTA", Outcome.REJECTED, False),
    (401, "something_new", "new", "E.ELEVENLABS.AUTH", Outcome.REJECTED, False),
    (403, "missing_permissions", "old", "E.ELEVENLABS.AUTH", Outcome.REJECTED, False),
    (400, "max_character_limit_exceeded", "old", "E.ELEVENLABS.REJECTED", Outcome.REJECTED, False),
    (404, "voice_not_found", "old", "E.ELEVENLABS.REJECTED", Outcome.REJECTED, False),
    (422, "missing", "validation", "E.ELEVENLABS.REJECTED", Outcome.REJECTED, False),
    (429, "too_many_concurrent_requests", "old", "E.ELEVENLABS.CONCURRENCY", Outcome.REJECTED, True),
    (429, "concurrent_limit_exceeded", "new", "E.ELEVENLABS.CONCURRENCY", Outcome.REJECTED, True),
    (429, "system_busy", "old", "E.ELEVENLABS.RATE_LIMITED", Outcome.REJECTED, True),
    (429, "rate_limit_exceeded", "new", "E.ELEVENLABS.RATE_LIMITED", Outcome.REJECTED, True),
    (429, "something_new", "new", "E.ELEVENLABS.RATE_LIMITED", Outcome.REJECTED, True),
    (408, "timeout", "new", "E.ELEVENLABS.TIMEOUT", Outcome.UNKNOWN, True),
    (409, "conflict", "new", "E.ELEVENLABS.UNAVAILABLE", Outcome.UNKNOWN, True),
    (500, "internal_server_error", "new", "E.ELEVENLABS.UNAVAILABLE", Outcome.UNKNOWN, True),
    (503, "system_busy", "old", "E.ELEVENLABS.UNAVAILABLE", Outcome.UNKNOWN, True),
]


class TestAnswers:
    @pytest.mark.parametrize(("status", "word", "shape", "code", "outcome", "again"), ANSWERS)
    async def test_table(
        self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs, *, status: int, word: str, shape: Any, code: str,
        outcome: Outcome, again: bool,
    ) -> None:  # fmt: skip
        """In all three shapes of their error documents."""
        standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, status=status, code=word, shape=shape))
        fault = await fault_of(gateway)
        assert (fault.code, fault.outcome, fault.may_retry) == (code, outcome, again)
        assert word in fault.detail

    async def test_when_to_come_back(self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs) -> None:
        refused = {"kind": FaultKind.STATUS_BEFORE, "status": 429, "code": "system_busy"}
        standin.faults.add(Fault(**refused, retry_after=7), Fault(**refused, retry_after=9_999), Fault(**refused))
        waits = [(await fault_of(gateway)).retry_after for _ in range(3)]
        assert waits == [timedelta(seconds=7), timedelta(seconds=120), None]

    @pytest.mark.parametrize(
        ("kind", "outcome", "paid"),
        [
            (FaultKind.DROP_BEFORE, Outcome.UNKNOWN, 0),
            (FaultKind.DROP_AFTER, Outcome.UNKNOWN, 1),
            (FaultKind.STATUS_AFTER, Outcome.UNKNOWN, 1),
            (FaultKind.SILENCE_AFTER, Outcome.UNKNOWN, 1),
            (FaultKind.BROKEN_OFF, Outcome.UNKNOWN, 1),
            (FaultKind.CUT_SHORT, Outcome.UNKNOWN, 1),
        ],
    )
    async def test_who_cannot_know_does_not_claim_to(
        self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs, kind: FaultKind, outcome: Outcome, paid: int
    ) -> None:
        standin.faults.add(Fault(kind=kind))
        fault = await fault_of(gateway)
        assert (fault.outcome, fault.may_retry) == (outcome, True)
        assert len(standin.studio.takes) == paid

    async def test_nobody_listens(self, http: httpx.AsyncClient) -> None:
        fault = await fault_of(gateway_to("http://127.0.0.1:1", http))
        assert (fault.code, fault.outcome) == ("E.ELEVENLABS.CONNECTION", Outcome.NOT_SENT)

    async def test_a_key_that_they_do_not_know(self, standin: StandInElevenLabs, http: httpx.AsyncClient) -> None:
        fault = await fault_of(gateway_to(standin.origin, http, key="bad-key"))
        assert (fault.code, fault.may_retry) == ("E.ELEVENLABS.AUTH", False)

    async def test_more_at_once_than_allowed(self, http: httpx.AsyncClient) -> None:
        """The stand-in enforces it as they do, and spends nothing on those that it refuses."""
        async with StandInElevenLabs(concurrency=2, delay=1.0) as standin:
            gateway = gateway_to(standin.origin, http)
            running = [asyncio.create_task(gateway.speak(HELLO)) for _ in range(2)]
            await standin.until(lambda: standin.studio.account(KEY).in_flight == 2)
            assert (await fault_of(gateway)).code == "E.ELEVENLABS.CONCURRENCY"
            await asyncio.gather(*running)
            assert len(standin.studio.takes) == 2

    async def test_no_characters_left(self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs) -> None:
        standin.studio.account(KEY).character_limit = 10
        assert (await fault_of(gateway)).code == "E.ELEVENLABS.QUOTA"


class TestFind:
    @pytest.mark.parametrize("kind", [FaultKind.DROP_AFTER, FaultKind.BROKEN_OFF, FaultKind.CUT_SHORT])
    async def test_what_got_lost_on_the_way(
        self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs, kind: FaultKind
    ) -> None:
        """The whole recording, with its bill, and nothing is paid again."""
        standin.faults.add(Fault(kind=kind))
        await fault_of(gateway)
        found = await gateway.find(HELLO, since=datetime.now(UTC))
        (take,) = standin.studio.takes
        assert found is not None
        assert (found.audio, found.request_id) == (take.audio, take.request_id)
        assert found.characters == len(HELLO.text)

    async def test_what_was_never_spoken(self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs) -> None:
        standin.faults.add(Fault(kind=FaultKind.DROP_BEFORE))
        await fault_of(gateway)
        assert await gateway.find(HELLO, since=LONG_AGO) is None

    @pytest.mark.parametrize(
        "other", [{"text": "Something else."}, {"voice": "voice-2"}, {"model": "eleven_flash_v2_5"}]
    )
    async def test_not_what_somebody_else_asked_for(self, gateway: ElevenLabsSpeech, other: dict[str, str]) -> None:
        await gateway.speak(HELLO.model_copy(update=other))
        assert await gateway.find(HELLO, since=LONG_AGO) is None

    async def test_not_what_was_spoken_long_before(self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs) -> None:
        """The clocks may differ by a minute or two, no more."""
        standin.studio.ahead_seconds = -3_600
        await gateway.speak(HELLO)
        assert await gateway.find(HELLO, since=datetime.now(UTC)) is None
        assert await gateway.find(HELLO, since=datetime.now(UTC) - timedelta(hours=2)) is not None

    async def test_behind_many_others(self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs) -> None:
        """The history comes in pages."""
        wanted = await gateway.speak(HELLO)
        for number in range(250):
            standin.studio.speak(KEY, "voice-1", f"Another text, number {number}.", "eleven_multilingual_v2")
        found = await gateway.find(HELLO, since=LONG_AGO)
        assert found is not None
        assert found.audio == wanted.audio

    @pytest.mark.parametrize("path", ["history", "audio"])
    @pytest.mark.parametrize(("status", "word"), [(500, "internal_server_error"), (429, "system_busy")])
    async def test_a_look_that_failed_says_nothing(
        self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs, path: Any, status: int, word: str
    ) -> None:
        await gateway.speak(HELLO)
        standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, path=path, status=status, code=word))
        with pytest.raises(ProviderError) as caught:
            await gateway.find(HELLO, since=LONG_AGO)
        assert (caught.value.outcome, caught.value.may_retry) == (Outcome.UNKNOWN, True)
        assert await gateway.find(HELLO, since=LONG_AGO) is not None

    async def test_audio_that_breaks_off_is_asked_for_again(
        self, gateway: ElevenLabsSpeech, standin: StandInElevenLabs
    ) -> None:
        await gateway.speak(HELLO)
        standin.faults.add(Fault(kind=FaultKind.BROKEN_OFF, path="audio"))
        with pytest.raises(ProviderError) as caught:
            await gateway.find(HELLO, since=LONG_AGO)
        assert caught.value.outcome is Outcome.UNKNOWN


class TestChoice:
    def test_ours_unless_wished(self, gateway: ElevenLabsSpeech) -> None:
        chosen = gateway.choose(language="ru", voice=None, model=None)
        assert (chosen.provider, chosen.voice, chosen.model) == ("elevenlabs", "voice-1", "eleven_multilingual_v2")
        wished = gateway.choose(language="ru", voice="v2", model="eleven_flash_v2_5")
        assert (wished.voice, wished.terms.max_characters) == ("v2", 40_000)

    def test_no_price_no_speech(self, gateway: ElevenLabsSpeech) -> None:
        with pytest.raises(PriceUnknown):
            gateway.choose(language="en", voice=None, model="eleven_v9")

    @pytest.mark.parametrize("key", ["", "two words", "line\nbreak"])
    def test_a_key_that_no_header_carries(self, http: httpx.AsyncClient, key: str) -> None:
        with pytest.raises(ValueError, match="API key") as caught:
            gateway_to("http://x", http, key=key)
        assert not key or key not in str(caught.value)
