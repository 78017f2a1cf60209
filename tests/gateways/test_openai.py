"""The OpenAI gateway against the stand-in over a socket, and its reading of headers and bodies that are odd."""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any, Final, get_args

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from core.http import HttpTimeouts, create_http_client
from domain.errors import TITLES, Outcome, PriceUnknown, ProviderError
from domain.generation import (
    Completion,
    CompletionRequest,
    CourseOutline,
    Finish,
    LanguageModel,
    LessonContent,
    LessonOutline,
    LessonTask,
    Message,
    Price,
    TokenUsage,
)
from domain.structured import AnswerFault, strict_schema, validate_answer
from gateways import openai_wire as gateway
from gateways.openai import OpenAILanguageModel
from gateways.standin_openai import Match, Rule, StandInOpenAI
from gateways.standin_openai import script as scripted
from gateways.standin_openai.script import Hang, MalformedJson, SlowBytes, Status429
from gateways.standin_openai.wire import BAD_KEY, MISSING_MODEL, REFUSAL_TEXT

KEY: Final = "sk-test-0123456789"
PROMPT: Final = "The secret recipe of the house"
PRICE: Final = Price(input_usd=Decimal(2), cached_input_usd=Decimal(1), output_usd=Decimal(8))
TIMEOUTS: Final = HttpTimeouts(connect=5, read=0.5, write=5, pool=5)


def request(op: str = "op-1", *, model: str = "gpt-x", schema: type[BaseModel] = LessonContent) -> CompletionRequest:
    return CompletionRequest(
        op=op,
        model=model,
        messages=(Message(role="system", content="You write lessons."), Message(role="user", content=PROMPT)),
        task=LessonTask(
            topic="t",
            audience="a",
            language="en",
            level="beginner",
            course_title="c",
            module_title="m",
            lesson=LessonOutline(title="l", objectives=("o",), section_ids=()),
            sections=(),
        ),
        schema_name=schema.__name__,
        json_schema=strict_schema(schema),
        max_output_tokens=4_000,
    )


def model_at(client: httpx.AsyncClient, base_url: str, **changes: Any) -> OpenAILanguageModel:
    settings: dict[str, Any] = {
        "api_key": KEY,
        "default_model": "gpt-x",
        "prices": {"gpt-x": PRICE},
        "can_look_up": True,
    }
    return OpenAILanguageModel(client=client, base_url=base_url, **settings | changes)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with create_http_client(timeout=TIMEOUTS, proxy=None, user_agent="longhaul-test") as http:
        yield http


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[StandInOpenAI]:
    async with StandInOpenAI(seed=5) as running:
        yield running


@pytest.fixture
def standin(server: StandInOpenAI) -> StandInOpenAI:
    server.reset()
    return server


@pytest.fixture
def model(client: httpx.AsyncClient, standin: StandInOpenAI) -> OpenAILanguageModel:
    return model_at(client, standin.base_url)


async def failure(model: OpenAILanguageModel, wanted: CompletionRequest | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await model.complete(request=wanted or request())
    assert caught.value.code in TITLES
    return caught.value


def told(error: ProviderError) -> tuple[str, Outcome, bool]:
    return error.code.removeprefix("E.OPENAI."), error.outcome, error.may_retry


class TestComplete:
    async def test_an_answer_with_its_bill(self, model: OpenAILanguageModel, standin: StandInOpenAI) -> None:
        answer = await model.complete(request=request())
        assert isinstance(validate_answer(LessonContent, answer.text), LessonContent)
        (call,) = standin.calls
        assert answer == Completion(
            text=answer.text,
            finish=Finish.STOP,
            usage=TokenUsage(
                input_tokens=call.prompt_tokens,
                cached_input_tokens=call.cached_tokens,
                output_tokens=call.completion_tokens,
            ),
            model="gpt-x-2026-01-01",
            provider_request_id=call.request_id,
        )

    async def test_cached_tokens_are_told_apart(self, model: OpenAILanguageModel, standin: StandInOpenAI) -> None:
        for index in range(12):
            wanted = request()
            message = Message(role="user", content=f"{PROMPT} {index}")
            await model.complete(request=wanted.model_copy(update={"messages": (message,)}))
        assert 0 < sum(call.cached_tokens > 0 for call in standin.calls) < 12

    async def test_the_body_says_what_was_asked(self, model: OpenAILanguageModel, standin: StandInOpenAI) -> None:
        wanted = request()
        await model.complete(request=wanted)
        (body,) = standin.requests
        assert body == {
            "model": "gpt-x",
            "messages": [
                {"role": "system", "content": "You write lessons."},
                {"role": "user", "content": PROMPT},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "LessonContent", "strict": True, "schema": wanted.json_schema},
            },
            "max_completion_tokens": 4_000,
            "temperature": 0.2,
            "seed": 7,
            "store": True,
            "metadata": {"op": "op-1"},
        }

    async def test_nothing_is_stored_where_nothing_can_be_looked_up(
        self, client: httpx.AsyncClient, standin: StandInOpenAI
    ) -> None:
        await model_at(client, standin.base_url, can_look_up=False).complete(request=request())
        assert not standin.requests[0].keys() & {"store", "metadata"}
        assert standin.stats["stored"] == 0

    async def test_it_is_a_language_model(self, client: httpx.AsyncClient) -> None:
        as_port: LanguageModel = model_at(client, "http://127.0.0.1/v1/")
        assert (as_port.name, as_port.default_model, as_port.can_look_up) == ("openai", "gpt-x", True)

    async def test_many_calls_at_once(self, client: httpx.AsyncClient) -> None:
        async with StandInOpenAI(seed=1, delay=0.05) as slow:
            model = model_at(client, slow.base_url)
            await asyncio.gather(*(model.complete(request=request(f"op-{index}")) for index in range(40)))
            assert slow.stats["billed"] == 40
            assert slow.stats["concurrency_high_water"] > 20


FAULTS: Final[list[tuple[Any, tuple[str, Outcome, bool], int]]] = [
    (Status429(), ("RATE_LIMITED", Outcome.REJECTED, True), 0),
    (Status429(code="slow_down"), ("RATE_LIMITED", Outcome.REJECTED, True), 0),
    ("insufficient_quota", ("QUOTA", Outcome.REJECTED, False), 0),
    ("status_500_before", ("UNAVAILABLE", Outcome.UNKNOWN, True), 0),
    ("status_500_after", ("UNAVAILABLE", Outcome.UNKNOWN, True), 1),
    (MalformedJson(where="body"), ("PROTOCOL", Outcome.UNKNOWN, True), 1),
    ("reset", ("CONNECTION", Outcome.UNKNOWN, True), 0),
    ("reset_after", ("CONNECTION", Outcome.UNKNOWN, True), 1),
    ("hang", ("TIMEOUT", Outcome.UNKNOWN, True), 0),
    (Hang(billed=True), ("TIMEOUT", Outcome.UNKNOWN, True), 1),
    ("error_in_200", ("PROTOCOL", Outcome.UNKNOWN, True), 0),
]
BAD_ANSWERS: Final[list[tuple[Any, Finish]]] = [
    ("refusal", Finish.REFUSAL),
    ("truncation", Finish.LENGTH),
    ("content_filter", Finish.CONTENT_FILTER),
    ("malformed_json", Finish.STOP),
    ("schema_breaking", Finish.STOP),
]


class TestOutcomes:
    """Every action of the stand-in, seen from the gateway."""

    @pytest.mark.parametrize(("action", "expected", "billed"), FAULTS, ids=str)
    async def test_faults(
        self,
        model: OpenAILanguageModel,
        standin: StandInOpenAI,
        action: Any,
        expected: tuple[str, Outcome, bool],
        billed: int,
    ) -> None:
        """Each fault gets its code and outcome, and what was paid for after all can be found."""
        standin.play(Rule(action=action))
        error = await failure(model)
        assert told(error) == expected
        assert standin.stats["billed"] == billed
        found = await model.find_completion(op="op-1", model="gpt-x")
        assert (found is not None) == bool(billed)

    @pytest.mark.parametrize(("action", "finish"), BAD_ANSWERS)
    async def test_bad_answers_are_results(
        self, model: OpenAILanguageModel, standin: StandInOpenAI, action: Any, finish: Finish
    ) -> None:
        """They were paid for, so they are answers and no errors."""
        standin.play(Rule(action=action))
        answer = await model.complete(request=request())
        assert answer.finish is finish
        assert answer.refusal == (REFUSAL_TEXT if finish is Finish.REFUSAL else None)
        assert isinstance(validate_answer(LessonContent, answer.text), AnswerFault)
        assert answer.usage.output_tokens > 0
        assert standin.stats["billed"] == 1

    async def test_slow_bytes_are_put_together(self, model: OpenAILanguageModel, standin: StandInOpenAI) -> None:
        standin.play(Rule(action=SlowBytes(size=400, interval=0.01)))
        answer = await model.complete(request=request())
        assert isinstance(validate_answer(LessonContent, answer.text), LessonContent)

    async def test_a_delay_below_the_time_out_is_no_fault(
        self, model: OpenAILanguageModel, standin: StandInOpenAI
    ) -> None:
        standin.play(Rule(action=scripted.Delay(seconds=0.05)))
        assert (await model.complete(request=request())).finish is Finish.STOP

    async def test_the_dangerous_case(self, model: OpenAILanguageModel, standin: StandInOpenAI) -> None:
        """We give up, the provider does not: the answer is paid, appears later, and is found instead of repeated."""
        standin.play(Rule(action=scripted.Delay(seconds=0.8), times=1))
        error = await failure(model)
        assert told(error) == ("TIMEOUT", Outcome.UNKNOWN, True)
        assert await model.find_completion(op="op-1", model="gpt-x") is None
        await standin.until(lambda stats: bool(stats["billed"]))
        assert standin.calls[-1].client_gone
        found = await model.find_completion(op="op-1", model="gpt-x")
        assert found is not None
        assert isinstance(validate_answer(LessonContent, found.text), LessonContent)
        assert standin.stats["paid_more_than_once"] == {}

    def test_no_action_is_left_out(self) -> None:
        union = get_args(scripted.Action)[0]
        known = {kind for part in get_args(union) for kind in get_args(part.model_fields["kind"].annotation)}
        tried = {Rule(action=row[0]).action.kind for row in (*FAULTS, *BAD_ANSWERS)}
        assert tried | {"delay", "slow_bytes"} == known

    async def test_a_bad_key(self, client: httpx.AsyncClient, standin: StandInOpenAI) -> None:
        error = await failure(model_at(client, standin.base_url, api_key=BAD_KEY))
        assert told(error) == ("AUTH", Outcome.REJECTED, False)
        assert BAD_KEY not in str(error)

    async def test_a_model_that_is_not_there(self, model: OpenAILanguageModel) -> None:
        assert told(await failure(model, request(model=MISSING_MODEL))) == ("REJECTED", Outcome.REJECTED, False)

    async def test_a_schema_that_strict_mode_refuses(self, model: OpenAILanguageModel) -> None:
        wanted = request().model_copy(update={"json_schema": LessonContent.model_json_schema()})
        assert told(await failure(model, wanted)) == ("REJECTED", Outcome.REJECTED, False)

    async def test_nobody_listens(self, client: httpx.AsyncClient) -> None:
        async with StandInOpenAI() as gone:
            base_url = gone.base_url
        assert told(await failure(model_at(client, base_url))) == ("CONNECTION", Outcome.NOT_SENT, True)

    async def test_an_address_without_http(self, client: httpx.AsyncClient) -> None:
        error = await failure(model_at(client, "ftp://127.0.0.1/v1"))
        assert told(error) == ("CONNECTION", Outcome.NOT_SENT, False)


class TestSecrets:
    @pytest.mark.parametrize("action", ["reset", "hang", "status_500_after", "error_in_200", "insufficient_quota"])
    async def test_neither_key_nor_prompt_is_in_an_error(
        self, model: OpenAILanguageModel, standin: StandInOpenAI, action: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nor is any exception chained to it, since those of httpx hold the request."""
        caplog.set_level(logging.INFO)
        standin.play(Rule(action=action))
        error = await failure(model)
        assert error.__cause__ is None
        assert error.__context__ is None
        told_all = "".join(traceback.format_exception(error)) + repr(vars(error)) + caplog.text
        assert KEY not in told_all
        assert PROMPT not in told_all

    async def test_the_key_is_not_shown_by_the_gateway(self, client: httpx.AsyncClient) -> None:
        model = model_at(client, "http://127.0.0.1/v1", api_key=SecretStr(KEY))
        assert KEY not in repr(vars(model))

    @pytest.mark.parametrize("key", ["", "sk\nx", "sk x", "ключ"])
    async def test_a_key_that_is_no_header_is_refused_without_being_quoted(
        self, client: httpx.AsyncClient, key: str
    ) -> None:
        with pytest.raises(ValueError, match="API key") as caught:
            model_at(client, "http://127.0.0.1/v1", api_key=key)
        assert not key or key not in str(caught.value)


# --- odd servers, without a socket ------------------------------------------------------------------

GOOD_ANSWER: Final[dict[str, Any]] = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-x-2026-01-01",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "{}", "refusal": None}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}


async def reply(answer: httpx.Response | Callable[[httpx.Request], httpx.Response]) -> Completion:
    handler = answer if callable(answer) else lambda _: answer
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
        return await model_at(http, "http://provider/v1").complete(request=request())


async def refused(status: int, *, headers: dict[str, str] | None = None, **error: Any) -> ProviderError:
    document = {"error": {"message": f"about {PROMPT}", "param": None, "type": None, "code": None} | error}
    with pytest.raises(ProviderError) as caught:
        await reply(httpx.Response(status, json=document, headers=headers))
    assert PROMPT not in str(caught.value)
    return caught.value


class TestErrorTable:
    @pytest.mark.parametrize(
        ("status", "error", "expected"),
        [
            (400, {"type": "invalid_request_error"}, ("REJECTED", Outcome.REJECTED, False)),
            (400, {"code": "context_length_exceeded"}, ("REJECTED", Outcome.REJECTED, False)),
            (401, {"code": "invalid_api_key"}, ("AUTH", Outcome.REJECTED, False)),
            (403, {"code": "unsupported_country_region_territory"}, ("AUTH", Outcome.REJECTED, False)),
            (404, {"code": "model_not_found"}, ("REJECTED", Outcome.REJECTED, False)),
            (408, {}, ("TIMEOUT", Outcome.UNKNOWN, True)),
            (409, {}, ("UNAVAILABLE", Outcome.UNKNOWN, True)),
            (413, {}, ("REJECTED", Outcome.REJECTED, False)),
            (422, {}, ("REJECTED", Outcome.REJECTED, False)),
            (429, {}, ("RATE_LIMITED", Outcome.REJECTED, True)),
            (429, {"code": "rate_limit_exceeded", "type": "tokens"}, ("RATE_LIMITED", Outcome.REJECTED, True)),
            (429, {"code": "slow_down"}, ("RATE_LIMITED", Outcome.REJECTED, True)),
            (503, {"code": "slow_down"}, ("RATE_LIMITED", Outcome.REJECTED, True)),
            (429, {"type": "insufficient_quota"}, ("QUOTA", Outcome.REJECTED, False)),
            (429, {"code": "insufficient_quota"}, ("QUOTA", Outcome.REJECTED, False)),
            (429, {"code": "credit_balance_exhausted"}, ("QUOTA", Outcome.REJECTED, False)),
            (429, {"code": "organization_spend_limit_exceeded"}, ("QUOTA", Outcome.REJECTED, False)),
            (429, {"code": "project_spend_limit_exceeded"}, ("QUOTA", Outcome.REJECTED, False)),
            (429, {"code": "organization_usage_limit_exceeded"}, ("QUOTA", Outcome.REJECTED, False)),
            (403, {"code": "insufficient_quota"}, ("QUOTA", Outcome.REJECTED, False)),
            (500, {"type": "server_error"}, ("UNAVAILABLE", Outcome.UNKNOWN, True)),
            (502, {}, ("UNAVAILABLE", Outcome.UNKNOWN, True)),
            (503, {"code": "server_is_overloaded"}, ("UNAVAILABLE", Outcome.UNKNOWN, True)),
            (504, {"code": 504, "type": ["odd"]}, ("UNAVAILABLE", Outcome.UNKNOWN, True)),
            (302, {}, ("PROTOCOL", Outcome.REJECTED, False)),
        ],
    )
    async def test_code_before_status(
        self, status: int, error: dict[str, Any], expected: tuple[str, Outcome, bool]
    ) -> None:
        assert told(await refused(status, **error)) == expected

    @pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[]", b'{"error": "text"}', b"null", b"\xff"])
    async def test_an_error_without_an_error_object(self, body: bytes) -> None:
        with pytest.raises(ProviderError) as caught:
            await reply(httpx.Response(502, content=body))
        assert told(caught.value) == ("UNAVAILABLE", Outcome.UNKNOWN, True)

    async def test_the_detail_names_status_code_and_request(self) -> None:
        error = await refused(400, code="context_length_exceeded", headers={"x-request-id": "req_9"})
        assert error.detail == "HTTP 400, request req_9, context_length_exceeded"


class TestProtocol:
    @pytest.mark.parametrize(
        "document",
        [
            {"error": {"message": "m", "type": "server_error", "code": None, "param": None}},
            GOOD_ANSWER | {"error": {"message": "m"}},
            GOOD_ANSWER | {"choices": []},
            {key: value for key, value in GOOD_ANSWER.items() if key != "choices"},
            GOOD_ANSWER | {"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]},
            {key: value for key, value in GOOD_ANSWER.items() if key != "usage"},
            GOOD_ANSWER | {"usage": {"prompt_tokens": -1, "completion_tokens": 0}},
            [],
            None,
            "text",
        ],
    )
    async def test_what_is_no_completion(self, document: Any) -> None:
        with pytest.raises(ProviderError) as caught:
            await reply(httpx.Response(200, content=json.dumps(document)))
        assert told(caught.value) == ("PROTOCOL", Outcome.UNKNOWN, True)
        assert caught.value.__context__ is None

    @pytest.mark.parametrize("reason", ["tool_calls", "function_call", "tired"])
    async def test_an_end_we_did_not_ask_for(self, reason: str) -> None:
        choice = GOOD_ANSWER["choices"][0] | {"finish_reason": reason}
        with pytest.raises(ProviderError) as caught:
            await reply(httpx.Response(200, json=GOOD_ANSWER | {"choices": [choice]}))
        assert told(caught.value) == ("PROTOCOL", Outcome.UNKNOWN, False)

    async def test_an_answer_that_is_too_large_is_not_read_to_its_end(self) -> None:
        sent = 0

        class Endless(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                nonlocal sent
                while True:
                    sent += 1_000_000
                    yield b" " * 1_000_000

        with pytest.raises(ProviderError) as caught:
            await reply(httpx.Response(200, stream=Endless()))
        assert told(caught.value) == ("PROTOCOL", Outcome.UNKNOWN, False)
        assert sent <= gateway.MAX_RESPONSE_BYTES + 1_000_000

    async def test_cached_tokens_never_exceed_the_input(self) -> None:
        usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 11}}
        answer = await reply(httpx.Response(200, json=GOOD_ANSWER | {"usage": usage}))
        assert answer.usage == TokenUsage(input_tokens=10, cached_input_tokens=10, output_tokens=1)

    @pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None}])
    async def test_cached_tokens_may_be_missing(self, details: Any) -> None:
        usage = GOOD_ANSWER["usage"] | {"prompt_tokens_details": details}
        answer = await reply(httpx.Response(200, json=GOOD_ANSWER | {"usage": usage}))
        assert answer.usage.cached_input_tokens == 0

    async def test_characters_that_cannot_be_carried_on_are_replaced(self) -> None:
        choice = {"message": {"content": "a\ud800b\x00c"}, "finish_reason": "stop"}
        answer = await reply(httpx.Response(200, content=json.dumps(GOOD_ANSWER | {"choices": [choice]})))
        assert answer.text == "a\ufffdb\ufffdc"
        assert answer.model_dump_json()

    async def test_an_empty_refusal_is_none(self) -> None:
        choice = {"message": {"content": "{}", "refusal": ""}, "finish_reason": "stop"}
        answer = await reply(httpx.Response(200, json=GOOD_ANSWER | {"choices": [choice]}))
        assert (answer.finish, answer.refusal) == (Finish.STOP, None)


DATE: Final = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry-after": "7"}, 7),
            ({"retry-after": " 1.5 "}, 1.5),
            ({"retry-after-ms": "250"}, 0.25),
            ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
            ({"retry-after-ms": "-1", "retry-after": "9"}, 9),
            ({"retry-after-ms": "0", "retry-after": "0"}, None),
            ({"retry-after": "100000"}, 120),
            ({"retry-after": "99999999999999999999"}, None),
            *[({"retry-after": text}, None) for text in ("-5", "", "soon", "nan", "inf", "1e3", "5, 5", "٣", "0x10")],
            ({"retry-after": format_datetime(DATE + timedelta(seconds=30), usegmt=True)}, 30),
            ({"retry-after": format_datetime(DATE - timedelta(seconds=30), usegmt=True)}, None),
            ({"retry-after": "Thu, 01 Jan 2099 00:00:00 GMT"}, 120),
            ({"retry-after": "Thu, 99 Jan 2099 00:00:00 GMT"}, None),
            ({"x-ratelimit-reset-requests": "12ms"}, 0.012),
            ({"x-ratelimit-reset-requests": "1m2s"}, 62),
            ({"x-ratelimit-reset-requests": "1h0m0s"}, 120),
            ({"x-ratelimit-reset-tokens": "1.5s", "x-ratelimit-reset-requests": "1s"}, 1.5),
            (
                {
                    "x-ratelimit-reset-tokens": "90s",
                    "x-ratelimit-remaining-tokens": "5000",
                    "x-ratelimit-reset-requests": "1s",
                    "x-ratelimit-remaining-requests": "0",
                },
                1,
            ),
            ({"x-ratelimit-reset-requests": "999999999h" * 50}, 120),
            *[({"x-ratelimit-reset-requests": text}, None) for text in ("0s", "5", "-5s", "1x", "s", "", "1s!", "1 s")],
            ({"retry-after": "3", "x-ratelimit-reset-requests": "9s"}, 3),
        ],
    )
    async def test_reading_of_headers(self, headers: dict[str, str], seconds: float | None) -> None:
        """By the clock of the server, which may differ from ours by any amount."""
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        sent.append((b"date", format_datetime(DATE, usegmt=True).encode()))
        with pytest.raises(ProviderError) as caught:
            await reply(httpx.Response(429, headers=sent, json={}))
        expected = None if seconds is None else timedelta(seconds=seconds)
        assert caught.value.retry_after == expected

    async def test_a_date_counts_from_now_where_the_server_tells_no_time(self) -> None:
        until = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        error = await refused(503, headers={"retry-after": until})
        assert error.retry_after is not None
        assert timedelta(seconds=50) < error.retry_after <= timedelta(seconds=60)

    async def test_resets_matter_only_where_a_limit_was_hit(self) -> None:
        """Every answer of the vendor carries them."""
        assert (await refused(500, headers={"x-ratelimit-reset-requests": "9s"})).retry_after is None

    async def test_what_is_not_tried_again_has_no_delay(self) -> None:
        assert (await refused(429, type="insufficient_quota", headers={"retry-after": "9"})).retry_after is None

    @pytest.mark.parametrize(
        ("action", "seconds"),
        [
            (Status429(retry_after=3), 3),
            (Status429(retry_after_ms=40), 0.04),
            (Status429(reset="1m2s"), 62),
            (Status429(retry_after=-1, retry_after_ms=0), None),
            (Status429(retry_after="Thu, 01 Jan 2099 00:00:00 GMT"), 120),
            (Status429(), None),
        ],
    )
    async def test_over_the_socket(
        self, model: OpenAILanguageModel, standin: StandInOpenAI, action: Status429, seconds: float | None
    ) -> None:
        standin.play(Rule(action=action))
        expected = None if seconds is None else timedelta(seconds=seconds)
        assert (await failure(model)).retry_after == expected

    @given(
        st.dictionaries(
            st.sampled_from([
                "retry-after", "retry-after-ms", "date", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens",
            ]),
            st.text(st.characters(min_codepoint=32, max_codepoint=255)),
        )
    )  # fmt: skip
    def test_no_header_raises(self, headers: dict[str, str]) -> None:
        wait = gateway._retry_after(httpx.Headers(headers, encoding="utf-8"), rate_limited=True)
        assert wait is None or timedelta() < wait <= gateway.MAX_RETRY_AFTER


class TestFindCompletion:
    async def test_the_stored_answer_is_the_one_that_was_given(
        self, model: OpenAILanguageModel, standin: StandInOpenAI
    ) -> None:
        for op in ("op-1", "op-2", "op-3"):
            standin.play(Rule(match=Match(op="op-2"), action="refusal"))
            given_answer = await model.complete(request=request(op))
            assert await model.find_completion(op=op, model="gpt-x") == given_answer
            assert await model.find_completion(op=op, model="gpt-x-2026-01-01") == given_answer

    async def test_none_where_there_is_none(self, model: OpenAILanguageModel) -> None:
        await model.complete(request=request("op-1"))
        assert await model.find_completion(op="op-2", model="gpt-x") is None

    async def test_a_filter_that_does_not_know_the_alias_is_not_believed(self) -> None:
        """Empty under the model's name: looked for once more without it, for overlooking means paying twice."""
        stored = GOOD_ANSWER | {"metadata": {"op": "op-1"}, "request_id": "req_7"}

        def handler(asked: httpx.Request) -> httpx.Response:
            assert asked.url.params["metadata[op]"] == "op-1"
            return httpx.Response(200, json={"data": [] if "model" in asked.url.params else [stored]})

        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
            found = await model_at(http, "http://provider/v1").find_completion(op="op-1", model="gpt-x")
        assert found is not None
        assert found.provider_request_id == "req_7"

    @pytest.mark.parametrize("metadata", [None, {}, {"op": "op-2"}, {"other": "op-1"}, []])
    async def test_a_server_that_ignores_the_filter_gives_us_nobody_elses_answer(self, metadata: Any) -> None:
        page = {"data": [GOOD_ANSWER | {"metadata": metadata}]}
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=page))) as http:
            assert await model_at(http, "http://provider/v1").find_completion(op="op-1", model="gpt-x") is None

    @pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
    async def test_a_look_that_fails_says_nothing_about_the_call(self, status: int) -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(status, json={}))
        async with httpx.AsyncClient(transport=transport) as http:
            with pytest.raises(ProviderError) as caught:
                await model_at(http, "http://provider/v1").find_completion(op="op-1", model="gpt-x")
        assert caught.value.outcome is Outcome.UNKNOWN
        assert caught.value.may_retry == (status in {429, 500})

    async def test_nor_does_a_server_that_is_away(self, client: httpx.AsyncClient) -> None:
        async with StandInOpenAI() as gone:
            base_url = gone.base_url
        with pytest.raises(ProviderError) as caught:
            await model_at(client, base_url).find_completion(op="op-1", model="gpt-x")
        assert told(caught.value) == ("CONNECTION", Outcome.UNKNOWN, True)

    @pytest.mark.parametrize("page", [{}, {"data": None}, {"data": [3]}])
    async def test_a_list_that_is_none(self, page: Any) -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=page))) as http:
            with pytest.raises(ProviderError) as caught:
                await model_at(http, "http://provider/v1").find_completion(op="op-1", model="gpt-x")
        assert told(caught.value) == ("PROTOCOL", Outcome.UNKNOWN, False)

    async def test_without_look_up_it_does_not_pretend(self, client: httpx.AsyncClient) -> None:
        """None would mean that the call may be made again."""
        blind = model_at(client, "http://127.0.0.1/v1", can_look_up=False)
        with pytest.raises(ProviderError) as caught:
            await blind.find_completion(op="op-1", model="gpt-x")
        assert told(caught.value) == ("REJECTED", Outcome.UNKNOWN, False)


class TestPrice:
    MINI: Final = Price(input_usd=Decimal("0.2"), cached_input_usd=Decimal("0.1"), output_usd=Decimal("0.8"))
    OLD: Final = Price(input_usd=Decimal(9), cached_input_usd=Decimal(9), output_usd=Decimal(9))

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("gpt-x", PRICE),
            ("gpt-x-2026-01-01", PRICE),
            ("gpt-x-20260101", PRICE),
            ("gpt-x-mini", MINI),
            ("gpt-x-mini-2026-01-01", MINI),
            ("gpt-x-2024-05-05", OLD),
        ],
    )
    async def test_exact_then_dated(self, client: httpx.AsyncClient, name: str, expected: Price) -> None:
        prices = {"gpt-x": PRICE, "gpt-x-mini": self.MINI, "gpt-x-2024-05-05": self.OLD}
        assert model_at(client, "http://127.0.0.1/v1", prices=prices).price(name) == expected

    @pytest.mark.parametrize(
        "name", ["gpt-y", "gpt-x-large", "gpt-x-large-2026-01-01", "gpt-x-2026", "gpt", "gpt-x2026-01-01", ""]
    )
    async def test_unknown(self, client: httpx.AsyncClient, name: str) -> None:
        """A cousin's price is no price: the call is refused before it costs an unknown sum."""
        with pytest.raises(PriceUnknown):
            model_at(client, "http://127.0.0.1/v1").price(name)


class TestOutline:
    async def test_numbers_and_sections_reach_the_outline(
        self, model: OpenAILanguageModel, standin: StandInOpenAI
    ) -> None:
        prompt = "Modules: 3\nLessons per module: 4\n" + "\n".join(f"[s{n}] Heading {n}" for n in range(1, 31))
        wanted = request(schema=CourseOutline).model_copy(update={"messages": (Message(role="user", content=prompt),)})
        outline = validate_answer(CourseOutline, (await model.complete(request=wanted)).text)
        assert isinstance(outline, CourseOutline)
        assert [len(module.lessons) for module in outline.modules] == [4, 4, 4]
        used = [section for module in outline.modules for lesson in module.lessons for section in lesson.section_ids]
        assert used == [f"s{n}" for n in range(1, 31)]
