"""ElevenLabs' text to speech: spoken once, and found again in the history where nobody knows whether it was.

Neither the key nor a text ever gets into an exception: messages of the vendor are left out, as they may quote both,
and so are the exceptions of httpx, which carry the request.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from core.http import classify_exception
from domain.audio import MP3, NotAudio, read_audio
from domain.errors import Outcome, PriceUnknown, ProviderError
from domain.media import SpeechModel, SpeechRequest, Spoken, Voice

MAX_AUDIO_BYTES: Final = 134_217_728
MAX_DOCUMENT_BYTES: Final = 16_777_216
OUTPUT_FORMAT: Final = "mp3_44100_128"
MAX_RETRY_AFTER: Final = timedelta(seconds=120)

_CLOCK_SKEW: Final = timedelta(minutes=2)
_PAGE_ITEMS: Final = 100
_MOST_PAGES: Final = 20
_SEED: Final = 7

_TIMEOUT: Final = "E.ELEVENLABS.TIMEOUT"
_CONNECTION: Final = "E.ELEVENLABS.CONNECTION"
_CONCURRENCY: Final = "E.ELEVENLABS.CONCURRENCY"
_RATE_LIMITED: Final = "E.ELEVENLABS.RATE_LIMITED"
_QUOTA: Final = "E.ELEVENLABS.QUOTA"
_AUTH: Final = "E.ELEVENLABS.AUTH"
_REJECTED: Final = "E.ELEVENLABS.REJECTED"
_UNAVAILABLE: Final = "E.ELEVENLABS.UNAVAILABLE"
_PROTOCOL: Final = "E.ELEVENLABS.PROTOCOL"


# --- the gateway ------------------------------------------------------------------------------------


class ElevenLabsSpeech:
    """A ``SpeechProvider`` over ``POST /v1/text-to-speech/{voice}``.

    Calls carry no name of ours and there is no idempotency key, so an earlier call is known by what was asked for:
    text, voice and model in the history since a moment. The same text wished for twice in that time by two jobs may
    be taken for one; then it was paid for once, which is what both wanted.
    """

    name = "elevenlabs"
    can_look_up = True

    def __init__(
        self,
        *,
        client: httpx.AsyncClient,
        base_url: str,
        api_key: SecretStr | str,
        default_voice: str,
        default_model: str,
        models: Mapping[str, SpeechModel],
        at_once: int,
    ) -> None:
        key = api_key if isinstance(api_key, SecretStr) else SecretStr(api_key)
        if not _HEADER_SAFE.fullmatch(key.get_secret_value()):
            # Refused here, because later httpx would quote the key in its complaint.
            raise ValueError("the API key is empty or has characters that no HTTP header can carry")
        self._client = client
        self._base_url = f"{base_url.rstrip('/')}/v1"
        self._api_key = key
        self._default_voice = default_voice
        self._default_model = default_model
        self._models = dict(models)
        self.at_once = at_once

    def choose(self, *, language: str, voice: str | None, model: str | None) -> Voice:  # noqa: ARG002 - the port
        """The voice and model of the wish, or ours; every model speaks every language. Raises PriceUnknown."""
        name = model or self._default_model
        terms = self._models.get(name)
        if terms is None:
            raise PriceUnknown(f"no price on file for the speech model {name!r}")
        return Voice(provider=self.name, voice=voice or self._default_voice, model=name, terms=terms)

    async def speak(self, request: SpeechRequest) -> Spoken:
        """Speak the text once. Raises ProviderError.

        A recording that is cut off has been paid for: the outcome is UNKNOWN, and the history has all of it.
        """
        reply = await self._send(
            "POST",
            f"/text-to-speech/{quote(request.voice, safe='')}",
            params={"output_format": OUTPUT_FORMAT},
            body={"text": request.text, "model_id": request.model, "seed": _SEED},
            most_bytes=MAX_AUDIO_BYTES,
        )
        if not _is_whole(reply.content):
            raise _fault("the recording is not whole", code=_PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True)
        return Spoken(
            audio=reply.content,
            media_type=MP3,
            characters=_billed(reply.headers, len(request.text)),
            request_id=_plain(reply.headers.get("request-id")),
        )

    async def find(self, request: SpeechRequest, *, since: datetime) -> Spoken | None:
        """The recording of this text in the history since then; None where there is none (yet).

        A ProviderError raised here always has the outcome UNKNOWN: a look that failed says nothing about the call
        that was looked for. One that is in the history without its audio being ready is not to be paid for again:
        that is such an error, too.
        """
        try:
            async for item in self._history(request, since - _CLOCK_SKEW):
                if _same(item, request):
                    return await self._recording(item)
        except ProviderError as exc:
            exc.outcome = Outcome.UNKNOWN
            raise
        return None

    async def _history(self, request: SpeechRequest, since: datetime) -> AsyncIterator["_Item"]:
        filters = {
            "page_size": str(_PAGE_ITEMS),
            "voice_id": request.voice,
            "model_id": request.model,
            "date_after_unix": str(int(since.timestamp())),
        }
        for _ in range(_MOST_PAGES):
            reply = await self._send("GET", "/history", params=filters, most_bytes=MAX_DOCUMENT_BYTES)
            page = _as_page(reply.content)
            for item in page.history:
                yield item
            if not page.has_more or not page.last_history_item_id:
                return
            filters["start_after_history_item_id"] = page.last_history_item_id
        # Not all was seen, so "not there" would be a guess, and a guess is paid for.
        raise _fault("the history is too long to be searched", code=_PROTOCOL, outcome=Outcome.UNKNOWN)

    async def _recording(self, item: "_Item") -> Spoken:
        path = f"/history/{quote(item.history_item_id, safe='')}/audio"
        reply = await self._send("GET", path, params={}, most_bytes=MAX_AUDIO_BYTES)
        if not _is_whole(reply.content):
            raise _fault(
                "the recording in the history is not whole", code=_PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True
            )
        billed = max(item.character_count_change_to - item.character_count_change_from, 0)
        return Spoken(audio=reply.content, media_type=MP3, characters=Decimal(billed), request_id=item.request_id)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str],
        most_bytes: int,
        body: Mapping[str, Any] | None = None,
    ) -> "_Reply":
        headers = {"xi-api-key": self._api_key.get_secret_value()}
        url = self._base_url + path
        try:
            request = self._client.build_request(method, url, json=body, params=params, headers=headers)
            response = await self._client.send(request, stream=True)
            try:
                content = await _read(response, most_bytes)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            fault = _transport_fault(exc)
        else:
            return _judge(response, content)
        # Out here, so that the exception of httpx, with the request inside, is not chained to ours.
        raise fault


_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class _Reply:
    """A good answer to some request."""

    content: bytes
    headers: httpx.Headers


async def _read(response: httpx.Response, most_bytes: int) -> bytes | None:
    """The body, or None as soon as it exceeds the cap."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > most_bytes:
            return None
    return bytes(content)


def _is_whole(audio: bytes) -> bool:
    try:
        return read_audio(audio, MP3).whole
    except NotAudio:
        return False


def _billed(headers: httpx.Headers, spoken: int) -> Decimal:
    """The characters that the answer bills; where it does not say, all that were spoken."""
    try:
        billed = Decimal(headers.get("character-cost", ""))
    except InvalidOperation:
        return Decimal(spoken)
    return billed if billed.is_finite() and billed >= 0 else Decimal(spoken)


# --- the history, as far as we read it --------------------------------------------------------------


class _Wire(BaseModel):
    """Vendors add members at will; what we do not know is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Item(_Wire):
    history_item_id: str
    request_id: str | None = None
    voice_id: str | None = None
    model_id: str | None = None
    text: str | None = None
    character_count_change_from: int
    character_count_change_to: int


class _Page(_Wire):
    history: tuple[_Item, ...]
    has_more: bool = False
    last_history_item_id: str | None = None


def _as_page(content: bytes) -> _Page:
    try:
        return _Page.model_validate_json(content)
    except ValidationError:
        # Not chained: it would quote the texts of the history.
        fault = _fault("the history is not understood", code=_PROTOCOL, outcome=Outcome.UNKNOWN)
    raise fault


def _same(item: _Item, request: SpeechRequest) -> bool:
    """Whether the history speaks of this text. Voice and model again: a server that ignores a filter is no proof."""
    return (
        (item.voice_id, item.model_id) == (request.voice, request.model)
        and item.text is not None
        and item.text.split() == request.text.split()
    )


# --- errors -----------------------------------------------------------------------------------------

_Verdict = tuple[str, Outcome, bool]
_NO: Final[_Verdict] = (_REJECTED, Outcome.REJECTED, False)
_BROKEN: Final[_Verdict] = (_UNAVAILABLE, Outcome.UNKNOWN, True)  # it may have spoken before it broke

_BY_WORD: Final[Mapping[str, _Verdict]] = {
    **dict.fromkeys(("quota_exceeded", "insufficient_credits", "payment_required"), (_QUOTA, Outcome.REJECTED, False)),
    **dict.fromkeys(
        ("invalid_api_key", "needs_authorization", "missing_permissions", "detected_unusual_activity"),
        (_AUTH, Outcome.REJECTED, False),
    ),
    **dict.fromkeys(
        ("too_many_concurrent_requests", "concurrent_limit_exceeded"), (_CONCURRENCY, Outcome.REJECTED, True)
    ),
    **dict.fromkeys(("system_busy", "rate_limit_exceeded"), (_RATE_LIMITED, Outcome.REJECTED, True)),
    **dict.fromkeys(("voice_not_found", "max_character_limit_exceeded", "model_not_found"), _NO),
}
_BY_STATUS: Final[Mapping[int, _Verdict]] = {
    401: (_AUTH, Outcome.REJECTED, False),
    402: (_QUOTA, Outcome.REJECTED, False),
    403: (_AUTH, Outcome.REJECTED, False),
    408: (_TIMEOUT, Outcome.UNKNOWN, True),
    409: _BROKEN,
    429: (_RATE_LIMITED, Outcome.REJECTED, True),
}


def _judge(response: httpx.Response, content: bytes | None) -> _Reply:
    """A good answer; raises ProviderError for any other."""
    request_id = _plain(response.headers.get("request-id")) or _plain(response.headers.get("x-trace-id"))
    place = f"HTTP {response.status_code}" + (f", request {request_id}" if request_id else "")
    if content is None:
        raise _fault(f"{place}: the answer is too large", code=_PROTOCOL, outcome=Outcome.UNKNOWN)
    if response.is_success:
        return _Reply(content, response.headers)
    words = tuple(_error_words(content))
    code, outcome, may_retry = _verdict(response.status_code, words)
    raise ProviderError(
        "ElevenLabs: " + ", ".join((place, *words)),
        code=code,
        outcome=outcome,
        retryable=may_retry,
        retry_after=_retry_after(response.headers) if may_retry else None,
    )


def _verdict(status: int, words: tuple[str, ...]) -> _Verdict:
    """The code decides where we know it: the same refusal comes with different statuses, as the years went by."""
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return _BROKEN  # whatever it says: it may have been said after the deed
    for word in words:
        if word in _BY_WORD:
            return _BY_WORD[word]
    if status < httpx.codes.BAD_REQUEST:  # a redirect: the address is wrong
        return (_PROTOCOL, Outcome.REJECTED, False)
    return _BY_STATUS.get(status, _NO)


def _error_words(content: bytes) -> Iterator[str]:
    """The words of an error document in any of its three shapes, as far as they are plain words.

    ``{"detail": {"status", "message"}}`` is the old shape, ``{"detail": {"type", "code", ...}}`` the new one, and a
    list of faults, each with a ``type``, what the validation of requests says.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return
    detail = document.get("detail") if isinstance(document, dict) else None
    for part in detail[:3] if isinstance(detail, list) else [detail]:
        if isinstance(part, dict):
            yield from filter(None, (_plain(part.get(name)) for name in ("code", "status", "type")))


_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")


def _plain(value: Any) -> str | None:
    """``value`` if it looks like an identifier, so that no prose of the other side gets into messages."""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else None


_NUMBER: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{0,6})?")


def _retry_after(headers: httpx.Headers) -> timedelta | None:
    """The wait that the server asks for; where it says nothing, also of concurrency, the usual back-off is right."""
    said = headers.get("retry-after", "").strip()
    return min(timedelta(seconds=float(said)), MAX_RETRY_AFTER) if _NUMBER.fullmatch(said) else None


def _transport_fault(exc: httpx.HTTPError | httpx.InvalidURL) -> ProviderError:
    # A wrong address stays wrong; everything else about a wire may get better.
    hopeless = isinstance(exc, httpx.InvalidURL | httpx.UnsupportedProtocol)
    code = _CONNECTION
    if isinstance(exc, httpx.TimeoutException):
        code = _TIMEOUT
    elif isinstance(exc, httpx.DecodingError):
        code = _PROTOCOL
    return _fault(type(exc).__name__, code=code, outcome=classify_exception(exc), may_retry=not hopeless)


def _fault(detail: str, *, code: str, outcome: Outcome, may_retry: bool = False) -> ProviderError:
    return ProviderError(f"ElevenLabs: {detail}", code=code, outcome=outcome, retryable=may_retry)
