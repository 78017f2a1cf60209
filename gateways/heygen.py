"""HeyGen's API v3: ordering a video under a key of ours, looking what became of it, fetching its bytes.

Neither the API key nor a script nor the address of a video gets into an exception: words of the vendor are left out
unless they look like identifiers, and so are the exceptions of httpx, which carry the request.
"""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from core.http import classify_exception
from domain.errors import Outcome, PriceUnknown, ProviderError
from domain.video import FilmWish, RenderOrder, RenderSight, RenderStatus, VideoPrice
from domain.webhooks import AddressRefused
from gateways.webhooks import GuardedClient

LONGEST_SCRIPT: Final = 5_000
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
MAX_RETRY_AFTER: Final = timedelta(minutes=5)
_PAGES: Final = 5
_NO_HINT: Final = timedelta(seconds=5)

_TIMEOUT: Final = "E.HEYGEN.TIMEOUT"
_CONNECTION: Final = "E.HEYGEN.CONNECTION"
_RATE_LIMITED: Final = "E.HEYGEN.RATE_LIMITED"
_IN_PROGRESS: Final = "E.HEYGEN.IN_PROGRESS"
_QUOTA: Final = "E.HEYGEN.QUOTA"
_AUTH: Final = "E.HEYGEN.AUTH"
_REJECTED: Final = "E.HEYGEN.REJECTED"
_UNAVAILABLE: Final = "E.HEYGEN.UNAVAILABLE"
_PROTOCOL: Final = "E.HEYGEN.PROTOCOL"
_EXPIRED: Final = "E.HEYGEN.EXPIRED"
_ADDRESS: Final = "E.HEYGEN.ADDRESS"


class HeyGenRenderer:
    """A ``VideoRenderer`` over ``/v3/videos``.

    ``callback_url`` is where HeyGen is to post when a video is ready, unsigned; None where an endpoint is registered
    with HeyGen, whose posts are signed, or where nothing of HeyGen's can reach us. ``prices`` are for a minute.
    """

    name = "heygen"
    longest_script = LONGEST_SCRIPT

    def __init__(
        self,
        *,
        client: httpx.AsyncClient,
        files: GuardedClient,
        base_url: str,
        api_key: SecretStr | str,
        prices: Mapping[str, Decimal],
        at_once: int,
        default_avatar: str | None = None,
        default_voice: str | None = None,
        default_engine: str = "avatar_iv",
        callback_url: str | None = None,
    ) -> None:
        key = api_key if isinstance(api_key, SecretStr) else SecretStr(api_key)
        if not _HEADER_SAFE.fullmatch(key.get_secret_value()):
            # Refused here, because later httpx would quote the key in its complaint.
            raise ValueError("the API key is empty or has characters that no HTTP header can carry")
        self._client = client
        self._files = files
        self._url = f"{base_url.rstrip('/')}/v3/videos"
        self._api_key = key
        self._prices = dict(prices)
        self._voice = default_voice
        self._callback_url = callback_url
        self.at_once = at_once
        self.default_avatar = default_avatar
        self.default_engine = default_engine

    # --- what is ordered ----------------------------------------------------------------------------

    def order(self, wish: FilmWish, *, render_id: UUID, tenant_id: UUID, lesson: str) -> RenderOrder:
        """The body and the key it is sent under. The engine is always said: prices differ by engine fourfold."""
        title = f"longhaul {render_id}"
        body: dict[str, Any] = {
            "type": "avatar",
            "avatar_id": wish.avatar,
            "script": wish.script,
            "engine": {"type": wish.engine},
            "resolution": wish.resolution,
            "aspect_ratio": "16:9",
            "output_format": "mp4",
            "title": title,
            "callback_id": str(render_id),
        }
        voice = wish.voice or self._voice
        if voice is not None:
            body["voice_id"] = voice
        if self._callback_url is not None:
            body["callback_url"] = self._callback_url
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        # HeyGen answers a known key with its first answer, whatever the body: so the key depends on the body.
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        return RenderOrder(key=f"hg:{tenant_id}:{lesson}:{digest}", title=title, body=text)

    def price(self, engine: str) -> VideoPrice:
        """What a minute of video from an engine costs. Raises PriceUnknown."""
        if engine not in self._prices:
            raise PriceUnknown(f"no price on file for the engine {engine!r}")
        return VideoPrice(usd_per_minute=self._prices[engine])

    # --- the wire -----------------------------------------------------------------------------------

    async def submit(self, order: RenderOrder) -> str:
        """Order a render; the same order again gets the same render for a day. Raises ProviderError."""
        headers = {"Idempotency-Key": order.key, "Content-Type": "application/json"}
        data = await self._call("POST", self._url, headers=headers, content=order.body.encode())
        ordered = _as(_Ordered, data)
        if ordered is None:
            raise _fault("ordered, but not under which id", code=_PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True)
        return ordered.data.video_id

    async def find(self, title: str) -> str | None:
        """The video of this very title; HeyGen itself compares parts of titles. Raises ProviderError."""
        token: str | None = None
        for _ in range(_PAGES):
            params = {"title": title, "limit": "100", **({"token": token} if token else {})}
            page = _as(_Page, await self._call("GET", self._url, params=params))
            if page is None:
                raise _fault("the list of videos is not understood", code=_PROTOCOL, outcome=Outcome.UNKNOWN)
            for item in page.data:
                if item.title == title and _plain(item.id):
                    return item.id
            token = page.next_token if page.has_more else None
            if not token:
                return None
        return None

    async def look(self, video_id: str) -> RenderSight:
        """What HeyGen says of a video now. Raises ProviderError."""
        if _plain(video_id) is None:
            raise _fault("the id of the video makes no sense", code=_PROTOCOL, outcome=Outcome.REJECTED)
        shown = _as(_Shown, await self._call("GET", f"{self._url}/{video_id}"))
        if shown is None or shown.data.status not in _STATUSES:
            raise _fault("the video is not understood", code=_PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True)
        video = shown.data
        return RenderSight(
            video_id=video_id,
            status=_STATUSES[video.status],
            seconds=video.duration,
            url=video.video_url,
            failure=_plain(video.failure_code),
        )

    async def fetch(self, url: str) -> AsyncIterator[bytes]:
        """The bytes of a video from its address at a file server, which is looked at before it is called."""
        fault: ProviderError
        try:
            async with self._files.stream(url) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise _file_fault(answer.status_code)
                async for chunk in answer.aiter_bytes():
                    yield chunk
                return
        except AddressRefused as refused:
            fault = _fault(f"the address of the video {refused}", code=_ADDRESS, outcome=Outcome.REJECTED)
        except TimeoutError:
            fault = _fault("no answer in time", code=_TIMEOUT, outcome=Outcome.NOT_SENT, may_retry=True)
        except (OSError, httpx.HTTPError) as broken:
            # Fetching changes nothing: whatever happened to the connection, it may be done again.
            fault = _fault(type(broken).__name__, code=_CONNECTION, outcome=Outcome.NOT_SENT, may_retry=True)
        except (ValueError, httpx.InvalidURL):
            fault = _fault("the address of the video makes no sense", code=_ADDRESS, outcome=Outcome.REJECTED)
        raise fault

    async def _call(self, method: str, url: str, **more: Any) -> Any:
        headers = {"X-Api-Key": self._api_key.get_secret_value(), **more.pop("headers", {})}
        try:
            request = self._client.build_request(method, url, headers=headers, **more)
            response = await self._client.send(request, stream=True)
            try:
                content = await _read(response)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            fault = _transport_fault(exc)
        else:
            return _judge(response, content)
        # Out here, so that the exception of httpx, with the request inside, is not chained to ours.
        raise fault


_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]+")


async def _read(response: httpx.Response) -> bytes | None:
    """The body, or None as soon as it exceeds the cap."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            return None
    return bytes(content)


# --- the wire, as far as we read it -----------------------------------------------------------------


class _Wire(BaseModel):
    """Vendors add members at will; what we do not know is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _OrderedVideo(_Wire):
    video_id: str
    status: str


class _Ordered(_Wire):
    data: _OrderedVideo


class _Video(_Wire):
    id: str
    status: str
    title: str | None = None
    video_url: str | None = None
    duration: float | None = None
    failure_code: str | None = None


class _Shown(_Wire):
    data: _Video


class _Page(_Wire):
    """``has_more`` and ``next_token`` stand beside ``data``."""

    data: list[_Video]
    has_more: bool = False
    next_token: str | None = None


class _ErrorDetail(_Wire):
    code: Any = None


class _ErrorDocument(_Wire):
    error: _ErrorDetail


_STATUSES: Final[Mapping[str, RenderStatus]] = {
    # As the answer to an order says it; nobody promises that a look never does.
    "waiting": RenderStatus.PENDING,
    **{status.value: status for status in RenderStatus},
}

_WireT = TypeVar("_WireT", bound=_Wire)


def _as(model: type[_WireT], data: Any) -> _WireT | None:
    """Read ``data`` as ``model``; None where it is none, since a ValidationError would quote the answer."""
    try:
        return model.model_validate(data)
    except ValidationError:
        return None


# --- errors -----------------------------------------------------------------------------------------

_Verdict = tuple[str, Outcome, bool]
_NOT_NOW: Final[_Verdict] = (_RATE_LIMITED, Outcome.NOT_SENT, True)
_BUSY_WITH_IT: Final[_Verdict] = (_IN_PROGRESS, Outcome.UNKNOWN, True)  # an earlier send of ours is being carried out
_NO_MONEY: Final[_Verdict] = (_QUOTA, Outcome.REJECTED, False)
_NO_ENTRY: Final[_Verdict] = (_AUTH, Outcome.REJECTED, False)
_NO: Final[_Verdict] = (_REJECTED, Outcome.REJECTED, False)
_BROKEN: Final[_Verdict] = (_UNAVAILABLE, Outcome.UNKNOWN, True)

_BY_CODE: Final[Mapping[str, _Verdict]] = {
    "request_in_progress": _BUSY_WITH_IT,
    "rate_limit_exceeded": _NOT_NOW,
    "insufficient_credit": _NO_MONEY,
    "unauthorized": _NO_ENTRY,
    "authentication_failed": _NO_ENTRY,
    "invalid_parameter": _NO,
}
_BY_STATUS: Final[Mapping[int, _Verdict]] = {
    401: _NO_ENTRY,
    402: _NO_MONEY,
    403: _NO_ENTRY,
    408: (_TIMEOUT, Outcome.UNKNOWN, True),
    409: _BUSY_WITH_IT,
    429: _NOT_NOW,
}


def _judge(response: httpx.Response, content: bytes | None) -> Any:
    """The JSON of a good answer; raises ProviderError for any other, a 200 with an error inside included."""
    place = f"HTTP {response.status_code}"
    if content is None:
        raise _fault(f"{place}: the answer is too large", code=_PROTOCOL, outcome=Outcome.UNKNOWN)
    data = _json(content)
    word = _error_word(data)
    if response.is_success and not (isinstance(data, dict) and data.get("error")):
        if not isinstance(data, dict):
            raise _fault(f"{place}: no usable answer", code=_PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True)
        return data
    code, outcome, may_retry = _verdict(response.status_code, word)
    raise ProviderError(
        f"HeyGen: {place}" + (f", {word}" if word else ""),
        code=code,
        outcome=outcome,
        retryable=may_retry,
        retry_after=_retry_after(response.headers) if outcome is Outcome.NOT_SENT else None,
    )


def _verdict(status: int, word: str | None) -> _Verdict:
    """The code decides where we know it: errors come with status 200, too."""
    if word is not None and word in _BY_CODE:
        return _BY_CODE[word]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if httpx.codes.BAD_REQUEST <= status < httpx.codes.INTERNAL_SERVER_ERROR:
        return _NO
    if httpx.codes.MULTIPLE_CHOICES <= status < httpx.codes.BAD_REQUEST:  # a redirect: the address is wrong
        return (_PROTOCOL, Outcome.REJECTED, False)
    return _BROKEN


def _file_fault(status: int) -> ProviderError:
    """What a file server's refusal means: nearly always that the address is too old, and a new one is to be had."""
    expired = status in {httpx.codes.FORBIDDEN, httpx.codes.UNAUTHORIZED, httpx.codes.GONE, httpx.codes.NOT_FOUND}
    code = _EXPIRED if expired else _UNAVAILABLE
    return _fault(f"the file server answers {status}", code=code, outcome=Outcome.NOT_SENT, may_retry=True)


def _transport_fault(exc: httpx.HTTPError | httpx.InvalidURL) -> ProviderError:
    hopeless = isinstance(exc, httpx.InvalidURL | httpx.UnsupportedProtocol)
    code = _CONNECTION
    if isinstance(exc, httpx.TimeoutException):
        code = _TIMEOUT
    elif isinstance(exc, httpx.DecodingError):
        code = _PROTOCOL
    outcome = Outcome.REJECTED if hopeless else classify_exception(exc)
    return _fault(type(exc).__name__, code=code, outcome=outcome, may_retry=not hopeless)


def _fault(detail: str, *, code: str, outcome: Outcome, may_retry: bool = False) -> ProviderError:
    return ProviderError(f"HeyGen: {detail}", code=code, outcome=outcome, retryable=may_retry)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _error_word(data: Any) -> str | None:
    document = _as(_ErrorDocument, data)
    return None if document is None else _plain(document.error.code)


_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")


def _plain(value: Any) -> str | None:
    """The value if it looks like an identifier, so that no prose of the other side gets into messages or addresses."""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else None


_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?")


def _retry_after(headers: httpx.Headers) -> timedelta:
    """The wait that HeyGen asks for, in seconds; some seconds where it names none that makes sense."""
    said = (headers.get("retry-after") or "").strip()
    wait = timedelta(seconds=float(said)) if _SECONDS.fullmatch(said) else _NO_HINT
    return min(wait, MAX_RETRY_AFTER)
