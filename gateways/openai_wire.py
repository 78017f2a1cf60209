"""The wire that OpenAI's services share: one call, and the table of what an answer that is none means.

Neither the key nor a prompt ever gets into an exception: messages of the vendor are left out, as they may quote
both, and so are the exceptions of httpx, which carry the request.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from core.http import classify_exception
from domain.errors import Outcome, ProviderError

MAX_RESPONSE_BYTES: Final = 8 * 1024 * 1024
MAX_RETRY_AFTER: Final = timedelta(seconds=120)

_TIMEOUT: Final = "E.OPENAI.TIMEOUT"
_CONNECTION: Final = "E.OPENAI.CONNECTION"
_RATE_LIMITED: Final = "E.OPENAI.RATE_LIMITED"
_QUOTA: Final = "E.OPENAI.QUOTA"
_AUTH: Final = "E.OPENAI.AUTH"
REJECTED: Final = "E.OPENAI.REJECTED"
_UNAVAILABLE: Final = "E.OPENAI.UNAVAILABLE"
PROTOCOL: Final = "E.OPENAI.PROTOCOL"


# --- one call ---------------------------------------------------------------------------------------

_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]+")


class OpenAIWire:
    """Calls below one base URL with one key."""

    def __init__(self, *, client: httpx.AsyncClient, base_url: str, api_key: SecretStr | str) -> None:
        key = api_key if isinstance(api_key, SecretStr) else SecretStr(api_key)
        if not _HEADER_SAFE.fullmatch(key.get_secret_value()):
            # Refused here, because later httpx would quote the key in its complaint.
            raise ValueError("the API key is empty or has characters that no HTTP header can carry")
        self._client = client
        self._base_url = base_url.rstrip("/")
        self._api_key = key

    async def send(
        self, method: str, path: str, *, body: dict[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> "Reply":
        """The JSON of a good answer. Raises ProviderError for any other, and where there is none."""
        headers = {"Authorization": f"Bearer {self._api_key.get_secret_value()}"}
        request = self._client.build_request(method, self._base_url + path, json=body, params=params, headers=headers)
        try:
            response = await self._client.send(request, stream=True)
            try:
                content = await _read(response)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            broken = _transport_fault(exc)
        else:
            return _judge(response, content)
        # Out here, so that the exception of httpx, with the request inside, is not chained to ours.
        raise broken


async def _read(response: httpx.Response) -> bytes | None:
    """Return the body, or None as soon as it exceeds the cap."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            return None
    return bytes(content)


# --- what every answer has in common ----------------------------------------------------------------


class Wire(BaseModel):
    """Vendors add members at will; what we do not know is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _ErrorDetail(Wire):
    """Some compatible servers send numbers for codes, hence Any."""

    code: Any = None
    type: Any = None


class _ErrorDocument(Wire):
    error: _ErrorDetail


@dataclass(frozen=True, slots=True)
class Reply:
    """A good answer to some request."""

    data: Any
    request_id: str | None


WireT = TypeVar("WireT", bound=Wire)


def read_as(model: type[WireT], data: Any) -> WireT | None:
    """Read ``data`` as ``model``; None where it is none, since a ValidationError would quote the answer."""
    try:
        return model.model_validate(data)
    except ValidationError:
        return None


# --- errors -----------------------------------------------------------------------------------------

_QUOTA_CODES: Final = frozenset({
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
})  # fmt: skip
_SLOW_DOWN_CODES: Final = frozenset({"rate_limit_exceeded", "slow_down"})
_SERVER_CODES: Final = frozenset({"server_error", "server_is_overloaded"})
_AUTH_CODES: Final = frozenset({"invalid_api_key", "account_deactivated", "unsupported_country_region_territory"})

_Verdict = tuple[str, Outcome, bool]
_NOT_NOW: Final[_Verdict] = (_RATE_LIMITED, Outcome.REJECTED, True)
_NO: Final[_Verdict] = (REJECTED, Outcome.REJECTED, False)
_BROKEN: Final[_Verdict] = (_UNAVAILABLE, Outcome.UNKNOWN, True)  # it may have answered itself before it broke

_BY_STATUS: Final[Mapping[int, _Verdict]] = {
    401: (_AUTH, Outcome.REJECTED, False),
    403: (_AUTH, Outcome.REJECTED, False),
    408: (_TIMEOUT, Outcome.UNKNOWN, True),
    409: _BROKEN,
    429: _NOT_NOW,
}

_OWN_FAULTS: Final = frozenset({500, 503})
"""Of the server itself. What stands between may say 502 or 504 while the server is still at work."""


def _judge(response: httpx.Response, content: bytes | None) -> Reply:
    """Return the JSON of a good answer; raises ProviderError for any other."""
    request_id = plain(response.headers.get("x-request-id"))
    place = f"HTTP {response.status_code}" + (f", request {request_id}" if request_id else "")
    if content is None:
        raise fault(f"{place}: the answer is too large", code=PROTOCOL, outcome=Outcome.UNKNOWN)
    data = _json(content)
    if response.is_success:
        if not isinstance(data, dict) or data.get("error") is not None:
            raise fault(f"{place}: no usable answer", code=PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True)
        return Reply(data=data, request_id=request_id)
    words = _error_words(data)
    code, outcome, may_retry = _verdict(response.status_code, words)
    raise ProviderError(
        ", ".join((place, *words)),
        code=code,
        outcome=outcome,
        retryable=may_retry,
        retry_after=_retry_after(response.headers, rate_limited=code == _RATE_LIMITED) if may_retry else None,
        ended=response.status_code in _OWN_FAULTS,
    )


def _verdict(status: int, words: tuple[str, ...]) -> _Verdict:
    """The code decides where we know it; statuses differ among the servers that speak this protocol."""
    if _QUOTA_CODES.intersection(words):
        return (_QUOTA, Outcome.REJECTED, False)
    if _SLOW_DOWN_CODES.intersection(words):
        return _NOT_NOW
    if _AUTH_CODES.intersection(words):
        return _BY_STATUS[401]
    if _SERVER_CODES.intersection(words) or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return _BROKEN
    if status < httpx.codes.BAD_REQUEST:  # a redirect: the address is wrong
        return (PROTOCOL, Outcome.REJECTED, False)
    return _BY_STATUS.get(status, _NO)


def _transport_fault(exc: httpx.HTTPError | httpx.InvalidURL) -> ProviderError:
    # A wrong address stays wrong; everything else about a wire may get better.
    hopeless = isinstance(exc, httpx.InvalidURL | httpx.UnsupportedProtocol)
    code = _CONNECTION
    if isinstance(exc, httpx.TimeoutException):
        code = _TIMEOUT
    elif isinstance(exc, httpx.DecodingError):
        code = PROTOCOL
    return fault(type(exc).__name__, code=code, outcome=classify_exception(exc), may_retry=not hopeless)


def fault(detail: str, *, code: str, outcome: Outcome, may_retry: bool = False) -> ProviderError:
    """A failure that no error document describes."""
    return ProviderError(f"OpenAI: {detail}", code=code, outcome=outcome, retryable=may_retry)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _error_words(data: Any) -> tuple[str, ...]:
    """The code and type of an error document, as far as they are plain words."""
    document = read_as(_ErrorDocument, data)
    if document is None:
        return ()
    return tuple(word for word in (plain(document.error.code), plain(document.error.type)) if word)


_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")


def plain(value: Any) -> str | None:
    """Return ``value`` if it looks like an identifier, so that no prose of the other side gets into messages."""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else None


# --- when to come back ------------------------------------------------------------------------------


def _retry_after(headers: httpx.Headers, *, rate_limited: bool) -> timedelta | None:
    """The wait that the server asks for, most exact header first; None where no header makes sense."""
    seconds = _number(headers.get("retry-after-ms"), unit=0.001) or _number(headers.get("retry-after"))
    if seconds is None:
        seconds = _until(headers.get("retry-after"), sent=headers.get("date"))
    if seconds is None and rate_limited:  # every answer tells when limits reset; it matters only once they are hit
        seconds = _reset(headers)
    return None if seconds is None else timedelta(seconds=min(seconds, MAX_RETRY_AFTER.total_seconds()))


_NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{0,12})?")


def _number(text: str | None, *, unit: float = 1.0) -> float | None:
    if text is None or not _NUMBER.fullmatch(text.strip()):
        return None
    return float(text) * unit or None


def _until(text: str | None, *, sent: str | None) -> float | None:
    """Seconds until an HTTP date, by the clock of the server where it tells the time."""
    moment = _date(text)
    if moment is None:
        return None
    seconds = (moment - (_date(sent) or datetime.now(UTC))).total_seconds()
    return seconds if seconds > 0 else None


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _reset(headers: httpx.Headers) -> float | None:
    """The reset of the limit that is used up; of the later one where the headers do not tell which it is."""
    waits = {kind: _go_duration(headers.get(f"x-ratelimit-reset-{kind}")) for kind in ("requests", "tokens")}
    used_up = [wait for kind, wait in waits.items() if wait and headers.get(f"x-ratelimit-remaining-{kind}") == "0"]
    return max(used_up or [wait for wait in waits.values() if wait], default=None)


_GO_PART: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h)")
_GO_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _go_duration(text: str | None) -> float | None:
    """Seconds of a duration in Go's notation, such as ``1m2.5s`` or ``12ms``; None for zero and for anything else."""
    if text is None or _GO_PART.sub("", text):
        return None
    seconds = math.fsum(float(amount) * _GO_UNITS[unit] for amount, unit in _GO_PART.findall(text))
    return seconds or None
