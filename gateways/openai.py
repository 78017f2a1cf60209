"""OpenAI's chat completions, and every server that speaks the same protocol."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import httpx
from pydantic import Field, SecretStr

from domain.errors import Outcome, PriceUnknown, ProviderError
from domain.generation import Completion, CompletionRequest, Finish, Price, TokenUsage
from gateways.openai_wire import PROTOCOL, REJECTED, OpenAIWire, Wire, fault, plain, read_as

_PATH: Final = "/chat/completions"
_SNAPSHOT: Final = re.compile(r"-[0-9]{4}-?[0-9]{2}-?[0-9]{2}")


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
        self._wire = OpenAIWire(client=client, base_url=base_url, api_key=api_key)
        self._prices = dict(prices)
        self.default_model = default_model
        self.can_look_up = can_look_up

    async def complete(self, *, request: CompletionRequest) -> Completion:
        """Send ``request`` once. A refusal, a cut-off or a filtered answer is a result; raises ProviderError."""
        reply = await self._wire.send("POST", _PATH, body=self._body(request))
        return _completion(reply.data, reply.request_id)

    async def find_completion(self, *, op: str, model: str) -> Completion | None:
        """Look for the stored answer of an earlier call with this op; None where none is stored (yet).

        An answer still being written is not listed. A ProviderError raised here always has the outcome UNKNOWN:
        a look that failed says nothing about the call that was looked for.
        """
        if not self.can_look_up:
            raise fault("this provider keeps no completions", code=REJECTED, outcome=Outcome.UNKNOWN)
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
        reply = await self._wire.send("GET", _PATH, params=filters)
        page = read_as(_Page, reply.data)
        if page is None:
            raise fault("the list of completions is not understood", code=PROTOCOL, outcome=Outcome.UNKNOWN)
        for item in page.data:
            # Checked again, since a server that ignores the filter would hand us somebody else's answer.
            metadata = item.get("metadata")
            if isinstance(metadata, dict) and metadata.get("op") == op:
                return _completion(item, plain(item.get("request_id")))
        return None


# --- the wire, as far as we read it -----------------------------------------------------------------


class _Message(Wire):
    content: str | None = None
    refusal: str | None = None


class _Choice(Wire):
    message: _Message
    finish_reason: str


_Count = Annotated[int, Field(ge=0)]


class _CachedTokens(Wire):
    cached_tokens: _Count | None = None


class _Usage(Wire):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _CachedTokens | None = None


class _Answer(Wire):
    model: str
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage
    """Required: an answer whose cost is not known cannot be charged to a budget."""


class _Page(Wire):
    data: list[dict[str, Any]]


_FINISHES: Final = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "content_filter": Finish.CONTENT_FILTER,
}


def _completion(data: Any, request_id: str | None) -> Completion:
    answer = read_as(_Answer, data)
    if answer is None:
        raise fault("the answer is no chat completion", code=PROTOCOL, outcome=Outcome.UNKNOWN, may_retry=True)
    choice = answer.choices[0]
    finish = Finish.REFUSAL if choice.message.refusal else _FINISHES.get(choice.finish_reason)
    if finish is None:
        raise fault("the answer ended in an unknown way", code=PROTOCOL, outcome=Outcome.UNKNOWN)
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
