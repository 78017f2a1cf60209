"""The stand-in as a server: calls in, limits and faults on the way, and a control API for whoever plays the world."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from domain.audio import MP3
from gateways.standin_elevenlabs.faults import FAULTS, Fault, FaultKind, FaultScript
from gateways.standin_elevenlabs.studio import MODELS, ApiError, Studio, Take
from gateways.unruly import Reset, Silence, UnrulyService, transport_of

_SLOW_CHUNKS: Final = 8


class StandInElevenLabs(UnrulyService):
    """Inside the context it listens at ``origin``; ``studio`` is its state, ``faults`` its script.

    A text takes ``delay`` seconds. ``requests`` keeps the body of every wish for speech, in the order of arrival.
    """

    def __init__(
        self, *, seed: int = 0, concurrency: int = 5, delay: float = 0.0, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__(host=host, port=port)
        self.studio = Studio(seed=seed, concurrency=concurrency)
        self.faults = FaultScript()
        self.delay = delay
        self.requests: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        """Listen."""
        return await super().__aenter__()

    def reset(self) -> None:
        """Empty accounts, an empty history, nothing in the script."""
        self.studio.reset()
        self.faults.clear()
        self.requests.clear()

    async def until(self, condition: Callable[[], bool], *, within: float = 60.0) -> None:
        """Wait until something holds of the studio."""
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(condition)

    def application(self) -> Starlette:
        """The vendor's API below ``/v1``, and the control API below ``/control``."""
        return Starlette(
            routes=[
                Route("/v1/text-to-speech/{voice}", self._speech, methods=["POST"]),
                Route("/v1/history", self._history),
                Route("/v1/history/{item}", self._item),
                Route("/v1/history/{item}/audio", self._audio),
                Route("/v1/user/subscription", self._subscription),
                Route("/v1/models", self._models),
                Route("/control/faults", self._control_faults, methods=["POST"]),
                Route("/control/state", self._control_state),
            ],
            exception_handlers={ApiError: _refusal},
        )

    # --- the vendor's API ---------------------------------------------------------------------------

    async def _speech(self, request: Request) -> Response:
        key = request.headers.get("xi-api-key", "")
        account = self.studio.account(key)
        body = await _body(request)
        self.requests.append(body)
        if account.in_flight >= self.studio.concurrency:
            raise ApiError(429, "concurrent_limit_exceeded")
        account.in_flight += 1
        account.most_in_flight = max(account.most_in_flight, account.in_flight)
        await self._tell()
        try:
            return await self._speak(key, request.path_params["voice"], body)
        finally:
            account.in_flight -= 1
            await self._tell()

    async def _speak(self, key: str, voice: str, body: dict[str, Any]) -> Response:
        fault = self.faults.next("speech")
        early = await _before(fault)
        if early is not None:
            return early
        text, model = self.studio.check(self.studio.account(key), voice, body)
        await asyncio.sleep(self.delay)
        take = self.studio.speak(key, voice, text, model)
        await self._tell()
        return _after(fault, take.audio, self._billing(take))

    def _billing(self, take: Take) -> dict[str, str]:
        account = self.studio.account(take.key)
        return {
            "request-id": take.request_id,
            "history-item-id": take.id,
            "character-cost": str(take.count_after - take.count_before),
            "current-concurrent-requests": str(account.in_flight),
            "maximum-concurrent-requests": str(self.studio.concurrency),
        }

    async def _history(self, request: Request) -> Response:
        key = request.headers.get("xi-api-key", "")
        self.studio.account(key)
        fault = self.faults.next("history")
        early = await _before(fault)
        if early is not None:
            return early
        return JSONResponse(self.studio.history(key, dict(request.query_params)))

    async def _item(self, request: Request) -> Response:
        return JSONResponse(self._take(request).document())

    async def _audio(self, request: Request) -> Response:
        take = self._take(request)
        fault = self.faults.next("audio")
        early = await _before(fault)
        return early if early is not None else _after(fault, take.audio, {})

    def _take(self, request: Request) -> Take:
        key = request.headers.get("xi-api-key", "")
        self.studio.account(key)
        for take in self.studio.takes:
            if (take.id, take.key) == (request.path_params["item"], key):
                return take
        raise ApiError(404, "history_item_not_found", shape="old")

    async def _subscription(self, request: Request) -> Response:
        account = self.studio.account(request.headers.get("xi-api-key"))
        return JSONResponse({
            "tier": "creator", "status": "active", "character_count": account.character_count,
            "character_limit": account.character_limit, "can_extend_character_limit": False,
            "allowed_to_extend_character_limit": False, "voice_slots_used": 0, "professional_voice_slots_used": 0,
            "voice_limit": 30, "voice_add_edit_counter": 0, "professional_voice_limit": 0,
            "can_extend_voice_limit": False, "can_use_instant_voice_cloning": True,
            "can_use_professional_voice_cloning": False,
        })  # fmt: skip

    async def _models(self, request: Request) -> Response:
        self.studio.account(request.headers.get("xi-api-key"))
        return JSONResponse([
            {"model_id": name, "name": name, "can_do_text_to_speech": True, "maximum_text_length_per_request": longest}
            for name, (longest, _) in MODELS.items()
        ])  # fmt: skip

    # --- the control API ----------------------------------------------------------------------------

    async def _control_faults(self, request: Request) -> Response:
        self.faults.add(*FAULTS.validate_json(await request.body()))
        return JSONResponse({})

    async def _control_state(self, _request: Request) -> Response:
        takes = [{**take.document(), "bytes": len(take.audio)} for take in self.studio.takes]
        return JSONResponse({"takes": takes, "requests": len(self.requests)})

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise ApiError(422, "json_invalid", shape="validation") from None
    if not isinstance(body, dict):
        raise ApiError(422, "model_attributes_type", shape="validation")
    return body


async def _refusal(_request: Request, fault: Exception) -> Response:
    assert isinstance(fault, ApiError)
    headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
    return JSONResponse(fault.document(), status_code=fault.status, headers=headers)


def _scripted(fault: Fault) -> ApiError:
    return ApiError(fault.status, fault.code, shape=fault.shape, retry_after=fault.retry_after)


async def _before(fault: Fault | None) -> Response | None:
    """What goes wrong before anything was done."""
    if fault is None:
        return None
    if fault.kind is FaultKind.DROP_BEFORE:
        return Reset()
    if fault.kind is FaultKind.STATUS_BEFORE:
        raise _scripted(fault)
    if fault.kind is FaultKind.DELAY_BEFORE:
        await asyncio.sleep(fault.seconds)
    return None


def _after(fault: Fault | None, audio: bytes, headers: dict[str, str]) -> Response:
    """The recording, or what goes wrong with it."""
    match fault.kind if fault is not None else None:
        case FaultKind.DROP_AFTER:
            return Reset()
        case FaultKind.SILENCE_AFTER:
            return Silence()
        case FaultKind.STATUS_AFTER:
            assert fault is not None
            raise _scripted(fault)
        case FaultKind.BROKEN_OFF:
            return _BrokenOff(audio, headers=headers, media_type=MP3)
        case FaultKind.CUT_SHORT:
            return Response(audio[: len(audio) - 100], headers=headers, media_type=MP3)
        case FaultKind.SLOW:
            assert fault is not None
            return StreamingResponse(_slowly(audio, fault.seconds), headers=headers, media_type=MP3)
    return Response(audio, headers=headers, media_type=MP3)


async def _slowly(audio: bytes, seconds: float) -> AsyncIterator[bytes]:
    size = len(audio) // _SLOW_CHUNKS + 1
    for start in range(0, len(audio), size):
        await asyncio.sleep(seconds / _SLOW_CHUNKS)
        yield audio[start : start + size]


class _BrokenOff(Response):
    """Announces everything, sends half, and is gone."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - the protocol
        """Send half of it."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body)[: len(self.body) // 2], "more_body": True})
        transport_of(scope).close()
