"""OpenAI's chat completions, and every server that speaks the same protocol.

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
from typing import Annotated, Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from core.http import classify_exception
from domain.errors import Outcome, PriceUnknown, ProviderError
from domain.generation import Completion, CompletionRequest, Finish, Price, TokenUsage

MAX_RESPONSE_BYTES: Final = 8 * 1024 * 1024
MAX_RETRY_AFTER: Final = timedelta(seconds=120)

_TIMEOUT: Final = "E.OPENAI.TIMEOUT"
_CONNECTION: Final = "E.OPENAI.CONNECTION"
_RATE_LIMITED: Final = "E.OPENAI.RATE_LIMITED"
_QUOTA: Final = "E.OPENAI.QUOTA"
_AUTH: Final = "E.OPENAI.AUTH"
_REJECTED: Final = "E.OPENAI.REJECTED"
_UNAVAILABLE: Final = "E.OPENAI.UNAVAILABLE"
_PROTOCOL: Final = "E.OPENAI.PROTOCOL"


# --- the gateway ------------------------------------------------------------------------------------


class OpenAILanguageModel:
    """A ``LanguageModel`` over ``POST /chat/completions``.

    With ``can_look_up`` every call is stored by the provider under its op, so that a call of unknown outcome can
    be found again instead of being paid twice; servers that keep no completions (vLLM, Ollama) take False.
    """

    name = "openai"

    def __init__(
        self,
        *,
        client: httpx.AsyncClient,
        base_url: str,
        api_key: SecretStr | str,
        default_model: str,
        prices: Mapping[str, Price],
        can_look_up: bool,
    ) -> None:
        key = api_key if isinstance(api_key, SecretStr) else SecretStr(api_key)
        if not _HEADER_SAFE.fullmatch(key.get_secret_value()):
            # Refused here, because later httpx would quote the key in its complaint.
            raise ValueError("the API key is empty or has characters that no HTTP header can carry")
        self._client = client
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._api_key = key
        self._prices = dict(prices)
        self.default_model = default_model
        self.can_look_up = can_look_up

    async def complete(self, *, request: CompletionRequest) -> Completion:
        """Send ``request`` once. A refusal, a cut-off or a filtered answer is a result; raises ProviderError."""
        reply = await self._send("POST", body=self._body(request))
        return _completion(reply.data, reply.request_id)

    async def find_completion(self, *, op: str, model: str) -> Completion | None:
        """Look for the stored answer of an earlier call with this op; None where none is stored (yet).

        An answer still being written is not listed. A ProviderError raised here always has the outcome UNKNOWN:
        a look that failed says nothing about the call that was looked for.
        """
        if not self.can_look_up:
            raise _fault("this provider keeps no completions", code=_REJECTED, outcome=Outcome.UNKNOWN)
        try:
            stored = await self._stored(op=op, model=model)
        except ProviderError as exc:
            exc.outcome = Outcome.UNKNOWN
            raise
        return stored

    def price(self, model: str) -> Price:
        """Return the price of ``model``; a dated snapshot costs what its undated name costs. Raises PriceUnknown."""
        if model in self._prices:
            return self._prices[model]
        for listed in sorted(self._prices, key=len, reverse=True):
            if model.startswith(listed) and _SNAPSHOT.fullmatch(model[len(listed) :]):
                return self._prices[listed]
        raise PriceUnknown(f"no price on file for the model {model!r}")

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [message.model_dump() for message in request.messages],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": request.schema_name, "strict": True, "schema": request.json_schema},
            },
            "max_completion_tokens": request.max_output_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if self.can_look_up:
            body |= {"store": True, "metadata": {"op": request.op}}
        return body

    async def _stored(self, *, op: str, model: str) -> Completion | None:
        filters = {"metadata[op]": op, "model": model}
        found = await self._listed(filters, op=op)
        if found is None:
            # It is not documented whether the filter knows an alias of the snapshot that answered. A second look
            # costs nothing; a completion overlooked is paid twice.
            found = await self._listed({"metadata[op]": op}, op=op)
        return found

    async def _listed(self, filters: Mapping[str, str], *, op: str) -> Completion | None:
        reply = await self._send("GET", params=filters)
        page = _as(_Page, reply.data)
        if page is None:
            raise _fault("the list of completions is not understood", code=_PROTOCOL, outcome=Outcome.UNKNOWN)
        for item in page.data:
            # Checked again, since a server that ignores the filter would hand us somebody else's answer.
            metadata = item.get("metadata")
            if isinstance(metadata, dict) and metadata.get("op") == op:
                return _completion(item, _plain(item.get("request_id")))
        return None

    async def _send(
        self, method: str, *, body: dict[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> "_Reply":
        headers = {"Authorization": f"Bearer {self._api_key.get_secret_value()}"}
        request = self._client.build_request(method, self._url, json=body, params=params, headers=headers)
        try:
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
_SNAPSHOT: Final = re.compile(r"-[0-9]{4}-?[0-9]{2}-?[0-9]{2}")


async def _read(response: httpx.Response) -> bytes | None:
    """Return the body, or None as soon as it exceeds the cap."""
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


class _Message(_Wire):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Wire):
    message: _Message
    finish_reason: str


_Count = Annotated[int, Field(ge=0)]


class _CachedTokens(_Wire):
    cached_tokens: _Count | None = None


class _Usage(_Wire):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _CachedTokens | None = None


class _Answer(_Wire):
    model: str
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage
    """Required: an answer whose cost is not known cannot be charged to a budget."""


class _Page(_Wire):
    data: list[dict[str, Any]]


class _ErrorDetail(_Wire):
    """Some compatible servers send numbers for codes, hence Any."""

    code: Any = None
    type: Any = None


class _ErrorDocument(_Wire):
    error: _ErrorDetail


@dataclass(frozen=True, slots=True)
class _Reply:
    """A good answer to some request."""

    data: Any
    request_id: str | None


_WireT = TypeVar("_WireT", bound=_Wire)


def _as(model: type[_WireT], data: Any) -> _WireT | None:
    """Read ``data`` as ``model``; None where it is none, since a ValidationError would quote the answer."""
    try:
        return model.model_validate(data)
    except ValidationError:
        return None


_FINISHES: Final = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "content_filter": Finish.CONTENT_FILTER,
}


def _completion(data: Any, request_id: str | None) -> Completion:
    answer = _as(_Answer, data)
    if answer is None:
        raise _fault("the answer is no chat completion", code=_PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True)
    choice = answer.choices[0]
    finish = Finish.REFUSAL if choice.message.refusal else _FINISHES.get(choice.finish_reason)
    if finish is None:
        raise _fault("the answer ended in an unknown way", code=_PROTOCOL, outcome=Outcome.UNKNOWN)
    return Completion(
        text=_carried(choice.message.content or ""),
        finish=finish,
        refusal=_carried(choice.message.refusal) if choice.message.refusal else None,
        usage=_token_usage(answer.usage),
        model=_carried(answer.model),
        provider_request_id=request_id,
    )


_NOT_CARRIED: Final = re.compile("[\x00\ud800-\udfff]")


def _carried(text: str) -> str:
    """Replace NUL and lone surrogates, which JSON may hold but neither UTF-8 nor PostgreSQL: the answer is paid for."""
    return _NOT_CARRIED.sub("\ufffd", text)


def _token_usage(usage: _Usage) -> TokenUsage:
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details else 0
    return TokenUsage(
        input_tokens=usage.prompt_tokens,
        cached_input_tokens=min(cached, usage.prompt_tokens),
        output_tokens=usage.completion_tokens,
    )


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
_NO: Final[_Verdict] = (_REJECTED, Outcome.REJECTED, False)
_BROKEN: Final[_Verdict] = (_UNAVAILABLE, Outcome.UNKNOWN, True)  # it may have answered itself before it broke

_BY_STATUS: Final[Mapping[int, _Verdict]] = {
    401: (_AUTH, Outcome.REJECTED, False),
    403: (_AUTH, Outcome.REJECTED, False),
    408: (_TIMEOUT, Outcome.UNKNOWN, True),
    409: _BROKEN,
    429: _NOT_NOW,
}


def _judge(response: httpx.Response, content: bytes | None) -> _Reply:
    """Return the JSON of a good answer; raises ProviderError for any other."""
    request_id = _plain(response.headers.get("x-request-id"))
    place = f"HTTP {response.status_code}" + (f", request {request_id}" if request_id else "")
    if content is None:
        raise _fault(f"{place}: the answer is too large", code=_PROTOCOL, outcome=Outcome.UNKNOWN)
    data = _json(content)
    if response.is_success:
        if not isinstance(data, dict) or data.get("error") is not None:
            raise _fault(f"{place}: no usable answer", code=_PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True)
        return _Reply(data=data, request_id=request_id)
    words = _error_words(data)
    code, outcome, may_retry = _verdict(response.status_code, words)
    raise ProviderError(
        ", ".join((place, *words)),
        code=code,
        outcome=outcome,
        retryable=may_retry,
        retry_after=_retry_after(response.headers, rate_limited=code == _RATE_LIMITED) if may_retry else None,
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
        return (_PROTOCOL, Outcome.REJECTED, False)
    return _BY_STATUS.get(status, _NO)


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
    return ProviderError(f"OpenAI: {detail}", code=code, outcome=outcome, retryable=may_retry)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _error_words(data: Any) -> tuple[str, ...]:
    """The code and type of an error document, as far as they are plain words."""
    document = _as(_ErrorDocument, data)
    if document is None:
        return ()
    return tuple(word for word in (_plain(document.error.code), _plain(document.error.type)) if word)


_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")


def _plain(value: Any) -> str | None:
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
