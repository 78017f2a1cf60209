"""The vendor's wire as the stand-in speaks it: what a request may say, what an answer and an error look like."""

import json
import random
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gateways.standin_openai.documents import UnsupportedSchema, write_document
from gateways.standin_openai.script import Action, MalformedJson

BAD_KEY: Final = "bad-key"
MISSING_MODEL: Final = "no-such-model"
REFUSAL_TEXT: Final = "I'm sorry, but I can't help with that."
_CHARS_PER_TOKEN: Final = 4


# --- errors -----------------------------------------------------------------------------------------


class ApiError(Exception):
    """An error answer of the vendor: a status and the four members of its error object."""

    def __init__(
        self, status: int, message: str, *, kind: str, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.document = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """The 400 for a request that is not as it should be."""
    return ApiError(400, message, kind="invalid_request_error", code=code, param=param)


def not_found(message: str, *, code: str | None = None) -> ApiError:
    """The 404 for a model or a completion that is not there."""
    return ApiError(404, message, kind="invalid_request_error", code=code)


def server_error() -> ApiError:
    """The 500 of every day."""
    return ApiError(500, "The server had an error while processing your request. Sorry!", kind="server_error")


def rate_limited(code: str) -> ApiError:
    """The 429 that passes by itself."""
    return ApiError(429, "Rate limit reached. Please slow down.", kind="requests", code=code)


def out_of_quota() -> ApiError:
    """The 429 that does not."""
    message = "You exceeded your current quota, please check your plan and billing details."
    return ApiError(429, message, kind="insufficient_quota", code="credit_balance_exhausted")


def check_key(authorization: str | None) -> None:
    """Let any bearer pass but ``bad-key``. Raises ApiError 401, which quotes the key as careless servers do."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise ApiError(401, "You didn't provide an API key.", kind="invalid_request_error")
    if key.strip() == BAD_KEY:
        message = f"Incorrect API key provided: {key.strip()}."
        raise ApiError(401, message, kind="invalid_request_error", code="invalid_api_key")


# --- the request ------------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _ChatMessage(BaseModel):
    """One message; what other roles carry besides is accepted and ignored."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class _SchemaFormat(_Strict):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    strict: bool | None = None
    wanted: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class _JsonSchemaFormat(_Strict):
    type: Literal["json_schema"]
    json_schema: _SchemaFormat


class _PlainFormat(_Strict):
    type: Literal["text", "json_object"]


_Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]


class ChatRequest(_Strict):
    """Body of ``POST /chat/completions``, with every member the vendor documents and no other."""

    model: Annotated[str, StringConstraints(min_length=1)]
    messages: Annotated[list[_ChatMessage], Field(min_length=1)]
    response_format: Annotated[_JsonSchemaFormat | _PlainFormat, Field(discriminator="type")] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    seed: int | None = None
    store: bool | None = None
    metadata: _Metadata | None = None
    n: Literal[1] | None = None
    stream: Literal[False] | None = None
    # Accepted, without any effect here.
    audio: Any = None
    frequency_penalty: float | None = None
    function_call: Any = None
    functions: Any = None
    logit_bias: Any = None
    logprobs: bool | None = None
    modalities: Any = None
    moderation: Any = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    presence_penalty: float | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: str | None = None
    service_tier: Any = None
    stop: Any = None
    stream_options: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None
    verbosity: Any = None
    web_search_options: Any = None

    @property
    def op(self) -> str | None:
        """The op our gateway puts into the metadata."""
        return (self.metadata or {}).get("op")

    @property
    def schema_name(self) -> str | None:
        """The name of the wished-for schema, if there is one."""
        wished = self.response_format
        return wished.json_schema.name if isinstance(wished, _JsonSchemaFormat) else None

    @property
    def prompt(self) -> str:
        """All messages as one text."""
        return "\n".join(message.text for message in self.messages)

    @property
    def token_limit(self) -> int | None:
        """Where the answer is to be cut."""
        return self.max_completion_tokens or self.max_tokens


def read_request(body: bytes) -> ChatRequest:
    """Read and check a request the way the vendor does. Raises ApiError 400 or 404."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("We could not parse the JSON body of your request.") from None
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(step) for step in fault["loc"])
        code = "unknown_parameter" if fault["type"] == "extra_forbidden" else "invalid_value"
        raise invalid(f"Invalid {place!r}: {fault['msg']}.", param=place, code=code) from None
    if request.metadata and not request.store:
        raise invalid("The 'metadata' parameter is only allowed when 'store' is enabled.", param="metadata")
    if request.model == MISSING_MODEL:
        raise not_found(f"The model '{request.model}' does not exist.", code="model_not_found")
    _check_format(request)
    return request


def _check_format(request: ChatRequest) -> None:
    wished = request.response_format
    if not isinstance(wished, _JsonSchemaFormat) or not wished.json_schema.strict:
        return
    fault = next(_strict_faults(wished.json_schema.wanted, ()), None)
    if fault is not None:
        raise invalid(
            f"Invalid schema for response_format '{wished.json_schema.name}': {fault}", param="response_format"
        )


# --- the rules of strict mode -----------------------------------------------------------------------

_PERMITTED: Final = frozenset({
    "$ref", "$defs", "definitions", "type", "enum", "const", "description", "title", "properties", "required",
    "additionalProperties", "items", "anyOf", "format", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems",
})  # fmt: skip


def _strict_faults(schema: Any, at: tuple[str, ...]) -> Iterator[str]:
    """Yield what strict mode has against ``schema``, in the vendor's words where they are known."""
    if not isinstance(schema, dict):
        yield f"In context={at}, schema must be an object."
        return
    if not at and (schema.get("type") != "object" or "anyOf" in schema):
        yield "schema must be a JSON Schema of 'type: \"object\"' without 'anyOf' at the root."
    for key in schema.keys() - _PERMITTED:
        yield f"In context={at}, '{key}' is not permitted."
    if "$ref" in schema and len(schema.keys() - {"$defs"}) > 1:
        yield f"In context={at}, '$ref' cannot have siblings."
    if schema.get("type") == "object":
        yield from _object_faults(schema, at)
    if schema.get("type") == "array" and "items" not in schema:
        yield f"In context={at}, array schema missing items."
    for place, part in _parts(schema):
        yield from _strict_faults(part, (*at, *place))


def _object_faults(schema: dict[str, Any], at: tuple[str, ...]) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield f"In context={at}, 'additionalProperties' is required to be supplied and to be false."
    if set(schema.get("required", ())) != set(schema.get("properties", {})):
        yield f"In context={at}, 'required' is required to be supplied and to include every key in properties."


def _parts(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key in ("properties", "$defs", "definitions"):
        for name, part in schema.get(key, {}).items():
            yield (key, name), part
    for index, part in enumerate(schema.get("anyOf", ())):
        yield ("anyOf", str(index)), part
    if "items" in schema:
        yield ("items",), schema["items"]


# --- the answer -------------------------------------------------------------------------------------


class Answer(BaseModel):
    """What the made-up model says, and why it stopped."""

    model_config = ConfigDict(frozen=True)

    content: str | None
    refusal: str | None = None
    finish_reason: Literal["stop", "length", "content_filter"] = "stop"


def think(request: ChatRequest, *, action: Action | None, seed: int) -> Answer:
    """Write the answer to ``request``, spoiled as ``action`` says. Raises ApiError for an impossible schema."""
    text = _text(request, seed)
    kind = action.kind if action is not None else None
    if kind == "refusal":
        return Answer(content=None, refusal=REFUSAL_TEXT)
    if kind == "content_filter":
        return Answer(content=text[: len(text) // 4], finish_reason="content_filter")
    if kind == "truncation":
        return Answer(content=text[: len(text) // 2], finish_reason="length")
    if isinstance(action, MalformedJson) and action.where == "content":
        text = text[: len(text) * 2 // 3]
    if kind == "schema_breaking":
        text = _break_schema(text)
    limit = request.token_limit
    if limit is not None and tokens(text) > limit:
        return Answer(content=text[: limit * _CHARS_PER_TOKEN], finish_reason="length")
    return Answer(content=text)


def _text(request: ChatRequest, seed: int) -> str:
    wished = request.response_format
    if wished is None or wished.type == "text":
        return "A short answer in plain words."
    schema = wished.json_schema.wanted if isinstance(wished, _JsonSchemaFormat) else None
    dice = f"{seed}:{request.seed}:{request.schema_name}:{request.prompt}"
    try:
        return write_document(schema or {"type": "object"}, prompt=request.prompt, seed=dice)
    except UnsupportedSchema as exc:
        raise invalid(f"Invalid schema for response_format: {exc}", param="response_format") from None


def _break_schema(text: str) -> str:
    document = json.loads(text)
    if isinstance(document, dict) and document:
        document.pop(next(reversed(document)))
    return json.dumps({**document, "unexpected": True} if isinstance(document, dict) else {"unexpected": document})


def tokens(text: str) -> int:
    """Count tokens the way a rule of thumb does."""
    return -(-len(text) // _CHARS_PER_TOKEN)


def usage(request: ChatRequest, answer: Answer, *, seed: int) -> dict[str, Any]:
    """Bill the work; in about every third call half of the prompt comes from the cache."""
    prompt = sum(tokens(message.text) + 4 for message in request.messages)
    dice = random.Random(f"{seed}:{request.prompt}:cache")  # noqa: S311
    completion = max(1, tokens(answer.content or answer.refusal or ""))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": dice.choice((0, 0, prompt // 2)), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


_DATED: Final = re.compile(r"-[0-9]{4}-[0-9]{2}-[0-9]{2}$")


def completion(
    request: ChatRequest, answer: Answer, *, identifier: str, created: int, seed: int, snapshot: str | None
) -> dict[str, Any]:
    """Return the ``chat.completion`` object. An undated model is answered by its dated snapshot, as the real one is."""
    model = request.model if snapshot is None or _DATED.search(request.model) else f"{request.model}-{snapshot}"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.content,
        "refusal": answer.refusal,
        "annotations": [],
    }
    return {
        "id": identifier,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}],
        "usage": usage(request, answer, seed=seed),
        "service_tier": "default",
        "system_fingerprint": "fp_standin",
    }
