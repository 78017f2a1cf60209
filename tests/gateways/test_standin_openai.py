"""The stand-in judged by the vendor's own package, and what it promises to tests that kill things around it."""

import asyncio
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import BaseModel, Field, StringConstraints, TypeAdapter, ValidationError, create_model

from domain.generation import CompletionRequest, CourseOutline, LessonContent, LessonOutline, LessonTask, Message
from domain.structured import strict_schema, validate_answer
from gateways.openai import OpenAILanguageModel
from gateways.standin_openai import Match, Rule, Script, StandInOpenAI
from gateways.standin_openai.documents import UnsupportedSchema, write_document
from gateways.standin_openai.script import RULES, Delay, Hang, SlowBytes, Status429
from gateways.standin_openai.wire import BAD_KEY, MISSING_MODEL

ROOT: Final = Path(__file__).parents[2]
HELLO: Final[list[Any]] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[StandInOpenAI]:
    async with StandInOpenAI(seed=3) as running:
        yield running


@pytest.fixture
def standin(server: StandInOpenAI) -> StandInOpenAI:
    server.reset()
    return server


@asynccontextmanager
async def vendor_client(base_url: str, key: str = "any-key", timeout: float = 5.0) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=timeout) as client:
        yield client


@pytest.fixture
async def vendor(standin: StandInOpenAI) -> AsyncIterator[openai.AsyncOpenAI]:
    async with vendor_client(standin.base_url) as client:
        yield client


def wish(model: type[BaseModel]) -> Any:
    return {
        "type": "json_schema",
        "json_schema": {"name": model.__name__, "strict": True, "schema": strict_schema(model)},
    }


def unknown_members(value: Any, at: str = "") -> set[str]:
    """Members of an answer that the vendor's types do not know."""
    if isinstance(value, list):
        return set().union(*(unknown_members(item, at) for item in value))
    if not isinstance(value, BaseModel):
        return set()
    found = {f"{at}/{name}" for name in value.model_extra or {}}
    return found.union(*(unknown_members(getattr(value, name), f"{at}/{name}") for name in type(value).model_fields))


class Step(BaseModel):
    explanation: str
    weight: float
    tags: list[Literal["a", "b"]]


class Solution(BaseModel):
    """Without constraints: strict mode refuses the lengths that our own models would bring along."""

    answer: int | None
    steps: list[Step]


class TestByTheVendorsClient:
    async def test_a_completion_is_one_to_the_letter(self, vendor: openai.AsyncOpenAI) -> None:
        raw = await vendor.chat.completions.with_raw_response.create(model="gpt-x", messages=HELLO)
        completion = ChatCompletion.model_validate_json(raw.http_response.content, strict=True)
        assert unknown_members(completion) == set()
        assert completion.usage is not None
        assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
        assert completion.model == "gpt-x-2026-01-01"

    async def test_headers(self, vendor: openai.AsyncOpenAI, standin: StandInOpenAI) -> None:
        raw = await vendor.chat.completions.with_raw_response.create(model="gpt-x", messages=HELLO)
        assert raw.headers["x-request-id"] == standin.calls[0].request_id
        assert raw.headers["openai-processing-ms"].isdigit()
        for limit in ("requests", "tokens"):
            assert int(raw.headers[f"x-ratelimit-remaining-{limit}"]) < int(raw.headers[f"x-ratelimit-limit-{limit}"])
            assert re.fullmatch(r"[0-9]+ms", raw.headers[f"x-ratelimit-reset-{limit}"])

    async def test_structured_output(self, vendor: openai.AsyncOpenAI) -> None:
        parsed = await vendor.chat.completions.parse(model="gpt-x", messages=HELLO, response_format=Solution)
        assert isinstance(parsed.choices[0].message.parsed, Solution)

    async def test_a_refusal(self, vendor: openai.AsyncOpenAI, standin: StandInOpenAI) -> None:
        standin.play(Rule(action="refusal"))
        parsed = await vendor.chat.completions.parse(model="gpt-x", messages=HELLO, response_format=Solution)
        assert parsed.choices[0].message.refusal
        assert parsed.choices[0].message.parsed is None

    @pytest.mark.parametrize(
        ("action", "error"),
        [("truncation", openai.LengthFinishReasonError), ("content_filter", openai.ContentFilterFinishReasonError)],
    )
    async def test_an_answer_that_was_cut(
        self, vendor: openai.AsyncOpenAI, standin: StandInOpenAI, action: Any, error: type[Exception]
    ) -> None:
        standin.play(Rule(action=action))
        with pytest.raises(error):
            await vendor.chat.completions.parse(model="gpt-x", messages=HELLO, response_format=Solution)

    @pytest.mark.parametrize("action", ["malformed_json", "schema_breaking"])
    async def test_an_answer_that_does_not_fit(
        self, vendor: openai.AsyncOpenAI, standin: StandInOpenAI, action: Any
    ) -> None:
        standin.play(Rule(action=action))
        with pytest.raises(ValidationError):
            await vendor.chat.completions.parse(model="gpt-x", messages=HELLO, response_format=Solution)

    async def test_the_token_limit_cuts_by_itself(self, vendor: openai.AsyncOpenAI) -> None:
        completion = await vendor.chat.completions.create(
            model="gpt-x", messages=HELLO, response_format=wish(LessonContent), max_completion_tokens=20
        )
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 20

    @pytest.mark.parametrize(
        ("action", "error"),
        [
            (Status429(retry_after=2), openai.RateLimitError),
            ("insufficient_quota", openai.RateLimitError),
            ("status_500_before", openai.InternalServerError),
            ("status_500_after", openai.InternalServerError),
            ("reset", openai.APIConnectionError),
            ("reset_after", openai.APIConnectionError),
            ("hang", openai.APITimeoutError),
        ],
        ids=str,
    )
    async def test_error_classes(self, standin: StandInOpenAI, action: Any, error: type[Exception]) -> None:
        standin.play(Rule(action=action))
        async with vendor_client(standin.base_url, timeout=0.3) as vendor:
            with pytest.raises(error) as caught:
                await vendor.chat.completions.create(model="gpt-x", messages=HELLO)
        assert type(caught.value) is error

    async def test_quota_and_rate_limit_differ_by_code(
        self, vendor: openai.AsyncOpenAI, standin: StandInOpenAI
    ) -> None:
        seen = []
        for action in (Status429(retry_after=2), "insufficient_quota"):
            standin.play(Rule.model_validate({"action": action}))
            with pytest.raises(openai.RateLimitError) as caught:
                await vendor.chat.completions.create(model="gpt-x", messages=HELLO)
            seen.append((caught.value.type, caught.value.code, caught.value.response.headers.get("retry-after")))
        assert seen == [
            ("requests", "rate_limit_exceeded", "2"),
            ("insufficient_quota", "credit_balance_exhausted", None),
        ]

    async def test_keys(self, standin: StandInOpenAI) -> None:
        async with vendor_client(standin.base_url, key=BAD_KEY) as vendor:
            with pytest.raises(openai.AuthenticationError) as caught:
                await vendor.chat.completions.create(model="gpt-x", messages=HELLO)
            assert caught.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                await vendor.models.list()
            with pytest.raises(openai.AuthenticationError):
                await vendor.chat.completions.list()

    async def test_models(self, vendor: openai.AsyncOpenAI) -> None:
        assert "gpt-x" in [model.id async for model in vendor.models.list()]
        assert (await vendor.models.retrieve("gpt-x")).object == "model"
        with pytest.raises(openai.NotFoundError):
            await vendor.models.retrieve(MISSING_MODEL)
        with pytest.raises(openai.NotFoundError):
            await vendor.chat.completions.create(model=MISSING_MODEL, messages=HELLO)

    @pytest.mark.parametrize(
        "change",
        [
            {"messages": []},
            {"temperature": 3},
            {"max_completion_tokens": 0},
            {"metadata": {"op": "x"}},  # without store
            {"metadata": {"op": "x" * 513}, "store": True},
            {"metadata": {str(n): "x" for n in range(17)}, "store": True},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            {"response_format": {"type": "yaml"}},
            {"extra_body": {"no_such_member": 1}},
            *[
                {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": s}}}
                for s in (
                    {"type": "string"},
                    {"type": "object", "properties": {}},
                    {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
                    LessonContent.model_json_schema(),
                    {
                        "type": "object",
                        "properties": {"a": {"type": "string", "default": "x"}},
                        "required": ["a"],
                        "additionalProperties": False,
                    },
                )
            ],
        ],
    )
    async def test_requests_that_the_vendor_would_refuse(
        self, vendor: openai.AsyncOpenAI, standin: StandInOpenAI, change: dict[str, Any]
    ) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await vendor.chat.completions.create(**{"model": "gpt-x", "messages": HELLO} | change)
        assert caught.value.type == "invalid_request_error"
        assert [(call.outcome, call.billed) for call in standin.calls] == [("status_400", False)]


class TestStored:
    async def test_found_by_metadata_and_model(self, vendor: openai.AsyncOpenAI) -> None:
        made = {}
        for op in ("a", "b"):
            made[op] = await vendor.chat.completions.create(
                model="gpt-x", messages=HELLO, store=True, metadata={"op": op, "run": "1"}
            )
        await vendor.chat.completions.create(model="gpt-x", messages=HELLO)
        page = await vendor.chat.completions.list(metadata={"op": "b"}, model="gpt-x")
        (found,) = page.data
        assert found.metadata == {"op": "b", "run": "1"}
        assert found.choices == made["b"].choices
        assert found.usage == made["b"].usage
        assert unknown_members(found) == {"/request_id"}  # sent by the vendor, though not in its types
        assert (await vendor.chat.completions.list(metadata={"op": "c"})).data == []
        assert (await vendor.chat.completions.list(metadata={"op": "b", "run": "2"})).data == []
        assert (await vendor.chat.completions.list(model="gpt-y")).data == []

    async def test_retrieved_with_its_messages(self, vendor: openai.AsyncOpenAI) -> None:
        made = await vendor.chat.completions.create(model="gpt-x", messages=HELLO, store=True)
        assert (await vendor.chat.completions.retrieve(made.id)).choices == made.choices
        messages = (await vendor.chat.completions.messages.list(made.id)).data
        assert [(message.role, message.content) for message in messages] == [("user", "Hello")]
        with pytest.raises(openai.NotFoundError):
            await vendor.chat.completions.retrieve("chatcmpl-none")

    async def test_pages(self, vendor: openai.AsyncOpenAI) -> None:
        made = [(await vendor.chat.completions.create(model="gpt-x", messages=HELLO, store=True)).id for _ in range(5)]
        page = await vendor.chat.completions.list(limit=2)
        assert page.has_more
        assert [item.id async for item in page] == made
        assert [item.id async for item in vendor.chat.completions.list(limit=2, order="desc")] == made[::-1]
        for bad in ({"limit": 0}, {"limit": 101}, {"after": "chatcmpl-none"}):
            with pytest.raises(openai.BadRequestError):
                await vendor.chat.completions.list(**bad)


class TestOurRequests:
    async def test_they_are_what_the_vendors_types_ask_for(self, standin: StandInOpenAI) -> None:
        wanted = CompletionRequest(
            op="op-1",
            model="gpt-x",
            messages=(Message(role="system", content="s"), Message(role="user", content="u")),
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
            schema_name="lesson",
            json_schema=strict_schema(LessonContent),
            max_output_tokens=100,
        )
        async with httpx.AsyncClient() as http:
            model = OpenAILanguageModel(
                client=http, base_url=standin.base_url, api_key="k", default_model="gpt-x", prices={}, can_look_up=True
            )
            await model.complete(request=wanted)
        (body,) = standin.requests
        judge = TypeAdapter(CompletionCreateParamsNonStreaming)
        judged = judge.validate_python(body, strict=True)
        assert list(judged["messages"]) == body["messages"]  # lazily checked, so it has to be read
        assert body.keys() <= CompletionCreateParamsNonStreaming.__annotations__.keys()

    @pytest.mark.parametrize("change", [{"seed": "7"}, {"store": "yes"}, {"response_format": {"type": "json"}}])
    def test_the_judge_can_say_no(self, change: dict[str, Any]) -> None:
        judge = TypeAdapter(CompletionCreateParamsNonStreaming)
        with pytest.raises(ValidationError):
            judge.validate_python({"model": "m", "messages": HELLO} | change, strict=True)


class TestWorkOutlivesItsCaller:
    async def test_a_caller_that_leaves_pays_all_the_same(self) -> None:
        async with StandInOpenAI(delay=0.3) as slow, vendor_client(slow.base_url) as vendor:
            asking = asyncio.create_task(
                vendor.chat.completions.create(model="gpt-x", messages=HELLO, store=True, metadata={"op": "lost"})
            )
            await slow.until(lambda stats: bool(stats["in_flight"]))
            asking.cancel()
            await asyncio.wait({asking})
            assert slow.stats["billed"] == 0
            await slow.until(lambda stats: bool(stats["billed"]))
            assert [(call.op, call.billed, call.stored, call.client_gone) for call in slow.calls] == [
                ("lost", True, True, True)
            ]
            assert len((await vendor.chat.completions.list(metadata={"op": "lost"})).data) == 1

    async def test_an_op_that_is_paid_twice_is_named(self, vendor: openai.AsyncOpenAI, standin: StandInOpenAI) -> None:
        for op in ("a", "b", "a"):
            await vendor.chat.completions.create(model="gpt-x", messages=HELLO, store=True, metadata={"op": op})
        assert standin.stats["paid_more_than_once"] == {"a": 2}

    async def test_the_high_water_mark(self) -> None:
        async with StandInOpenAI(delay=0.1) as slow, vendor_client(slow.base_url) as vendor:
            await asyncio.gather(*(vendor.chat.completions.create(model="gpt-x", messages=HELLO) for _ in range(7)))
            assert slow.stats["concurrency_high_water"] == 7
            assert slow.stats["in_flight"] == 0
            assert max(call.concurrency for call in slow.calls) == 7

    async def test_closing_does_not_wait_for_anything(self) -> None:
        """Neither for work, nor for a silent call, nor for a slow body."""
        rules = [
            Rule(match=Match(nth=1), action="hang"),
            Rule(match=Match(nth=2), action=SlowBytes(size=1, interval=9)),
        ]
        async with vendor_client("http://127.0.0.1:1/v1") as vendor:
            async with asyncio.timeout(5):
                async with StandInOpenAI(faults=rules) as closing:
                    vendor.base_url = closing.base_url
                    calls = [asyncio.create_task(vendor.chat.completions.create(model="m", messages=HELLO))]
                    await closing.until(lambda stats: stats["calls"] == 1)
                    calls.append(asyncio.create_task(vendor.chat.completions.create(model="m", messages=HELLO)))
                    await closing.until(lambda stats: stats["calls"] == 2)
                    closing.play(Rule(action=Delay(seconds=60)))
                    calls.append(asyncio.create_task(vendor.chat.completions.create(model="m", messages=HELLO)))
                    await closing.until(lambda stats: bool(stats["in_flight"]))
                done, pending = await asyncio.wait(calls, timeout=2)
            assert not pending
            assert all(isinstance(call.exception(), openai.APIConnectionError) for call in done)


# --- documents --------------------------------------------------------------------------------------


def tree() -> type[BaseModel]:
    class Tree(BaseModel):
        label: str
        children: "list[Tree]"
        next: "Tree | None"

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    return Tree


ANNOTATIONS: Final[list[Any]] = [
    Annotated[str, StringConstraints(min_length=300)],
    Annotated[str, StringConstraints(max_length=3)],
    Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}-\d{3,}(x|y)?[^ab]$")],
    Annotated[str, StringConstraints(pattern=r"^s[0-9]+$")],
    Annotated[int, Field(ge=5, le=5)],
    Annotated[int, Field(gt=7, lt=9)],
    Annotated[int, Field(multiple_of=7, ge=10)],
    Annotated[int, Field(lt=0)],
    Annotated[float, Field(gt=0, lt=0.001)],
    Annotated[float, Field(le=-5)],
    Annotated[float, Field(multiple_of=0.5)],
    bool,
    None,
    Literal["a", 1, True],
    list[int],
    Annotated[list[int], Field(min_length=6, max_length=6)],
    Annotated[list[str], Field(max_length=0)],
    Annotated[set[int], Field(min_length=4)],
    tuple[int, str, bool],
    int | str | None,
    dict[str, int],
    list[list[list[str]]],
]


class TestDocuments:
    @pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
    @pytest.mark.parametrize("seed", range(5))
    def test_any_schema(self, annotation: Any, seed: int) -> None:
        model = create_model("Wanted", field=(annotation, ...))
        text = write_document(model.model_json_schema(), prompt="", seed=str(seed))
        model.model_validate_json(text, strict=True)

    @pytest.mark.parametrize("kind", ["date-time", "date", "time", "duration", "email", "uuid", "uri", "ipv4", "ipv6"])
    def test_formats(self, kind: str) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "string", "format": kind}}}
        assert json.loads(write_document(schema, prompt="", seed="1"))["a"]

    @pytest.mark.parametrize("seed", range(20))
    def test_a_schema_that_contains_itself_ends(self, seed: int) -> None:
        model = tree()
        model.model_validate_json(write_document(model.model_json_schema(), prompt="", seed=str(seed)))

    @pytest.mark.parametrize(
        "part",
        [
            {"$ref": "#/$defs/None"},
            {"$ref": "https://example.org/schema"},
            {"type": "colour"},
            {"type": "integer", "minimum": 3, "maximum": 2},
            {"type": "number", "minimum": 3, "maximum": 2},
            {"type": "string", "pattern": "(?!)"},
            {"type": "string", "pattern": "("},
            False,
        ],
    )
    def test_an_impossible_schema_is_refused(self, part: Any) -> None:
        with pytest.raises(UnsupportedSchema):
            write_document({"type": "object", "properties": {"a": part}, "required": ["a"]}, prompt="", seed="1")

    @pytest.mark.parametrize("seed", range(30))
    @pytest.mark.parametrize("model", [CourseOutline, LessonContent])
    def test_our_documents_pass_the_full_models(self, model: type[BaseModel], seed: int) -> None:
        prompt = "Topic: Gärten & <b>Beete</b>\nModules: 4\nLesson: " + "x" * 500
        assert isinstance(
            validate_answer(model, write_document(strict_schema(model), prompt=prompt, seed=str(seed))), model
        )

    @pytest.mark.parametrize(
        ("prompt", "shape"),
        [
            ("", [2, 2]),
            ("Modules: 3\nLessons per module: 4", [4, 4, 4]),
            ("- **Modules:** 1\n- lessons_per_module: 5", [5]),
            ("Modules: 0\nLessons per module: 999", [50]),
            ("Modules: 100\nLessons per module: 50", [20] * 100),
        ],
    )
    def test_numbers_in_the_prompt(self, prompt: str, shape: list[int]) -> None:
        outline = self.outline(prompt)
        assert [len(module.lessons) for module in outline.modules] == shape

    @pytest.mark.parametrize("sections", [0, 1, 3, 12, 13, 100])
    def test_every_section_is_used_in_order(self, sections: int) -> None:
        lines = [f"[s{number}] A heading" for number in range(1, sections + 1)]
        outline = self.outline("Modules: 3\nLessons per module: 4\n" + "\n".join(lines))
        used = [name for module in outline.modules for lesson in module.lessons for name in lesson.section_ids]
        assert list(dict.fromkeys(used)) == [f"s{number}" for number in range(1, sections + 1)]
        assert len(used) == max(sections, 12 if sections else 0)

    def outline(self, prompt: str) -> CourseOutline:
        return CourseOutline.model_validate_json(
            write_document(strict_schema(CourseOutline), prompt=prompt, seed="1"), strict=True
        )

    def test_the_same_wish_gets_the_same_answer(self) -> None:
        documents = [write_document(strict_schema(LessonContent), prompt="p", seed=seed) for seed in ("1", "1", "2")]
        assert documents[0] == documents[1] != documents[2]


# --- the script -------------------------------------------------------------------------------------


def decisions(*rules: dict[str, Any], calls: int = 6, seed: int = 0, **call: Any) -> list[str | None]:
    script = Script(RULES.validate_python(rules), seed=seed)
    chosen = [script.decide(**{"schema_name": "s", "op": "o"} | call) for _ in range(calls)]
    return [action.kind if action else None for action in chosen]


class TestScript:
    def test_nth_every_and_times(self) -> None:
        assert decisions({"match": {"nth": 2}, "action": "reset"}, calls=3) == [None, "reset", None]
        assert decisions({"match": {"every": 2}, "action": "reset"}, calls=4) == [None, "reset", None, "reset"]
        assert decisions({"action": "reset", "times": 2}, calls=3) == ["reset", "reset", None]

    def test_the_first_rule_that_fits_decides_and_all_rules_count(self) -> None:
        rules: list[dict[str, Any]] = [
            {"action": "reset", "times": 1},
            {"match": {"nth": 2}, "action": "refusal"},
            {"match": {"nth": 1}, "action": "truncation"},
        ]
        assert decisions(*rules, calls=3) == ["reset", "refusal", None]

    def test_only_what_is_selected_is_counted(self) -> None:
        rule = {"match": {"schema_name": "Lesson*", "op": "a?", "nth": 1}, "action": "reset"}
        assert decisions(rule, schema_name="Outline") == [None] * 6
        assert decisions(rule, schema_name=None, op=None) == [None] * 6
        assert decisions(rule, schema_name="LessonContent", op="a1", calls=2) == ["reset", None]

    def test_probability_is_seeded(self) -> None:
        rule = {"match": {"probability": 0.3}, "action": "reset"}
        first = decisions(rule, calls=1000)
        assert first == decisions(rule, calls=1000)
        assert first != decisions(rule, calls=1000, seed=1)
        assert 240 < Counter(first)["reset"] < 360

    @pytest.mark.parametrize(
        "rule",
        [
            {},
            {"action": "explode"},
            {"action": "reset", "when": 1},
            {"action": {"kind": "reset", "seconds": 1}},
            {"match": {"nth": 0}, "action": "reset"},
            {"match": {"probability": 2}, "action": "reset"},
        ],
    )
    def test_typing_errors_are_caught(self, rule: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            RULES.validate_python([rule])


class TestControl:
    async def test_over_http(self, standin: StandInOpenAI, vendor: openai.AsyncOpenAI) -> None:
        async with httpx.AsyncClient(base_url=f"{standin.origin}/control") as control:
            rules = [{"match": {"op": "b"}, "action": {"kind": "hang", "billed": True}}, {"action": "refusal"}]
            assert (await control.post("/script", json=rules)).json() == {"rules": 2}
            await vendor.chat.completions.create(model="gpt-x", messages=HELLO, store=True, metadata={"op": "a"})
            listed = (await control.get("/calls")).json()
            stats = (await control.get("/stats")).json()
            assert (await control.post("/script", json=[{"action": "explode"}])).status_code == 400
            await control.post("/reset")
            assert (await control.get("/calls")).json() == {"calls": [], "concurrency_high_water": 0}
            await vendor.chat.completions.create(model="gpt-x", messages=HELLO)
        call: dict[str, Any]
        (call,) = listed["calls"]
        assert listed["concurrency_high_water"] == 1
        assert {
            "op": "a",
            "model": "gpt-x",
            "schema_name": None,
            "outcome": "refusal",
            "billed": True,
        }.items() <= call.items()
        assert (stats["billed"], stats["stored"], stats["outcomes"]) == (1, 1, {"refusal": 1})
        assert [record.outcome for record in standin.calls] == ["completed"]

    def test_actions_can_be_given_as_objects_or_as_names(self) -> None:
        assert Rule.model_validate({"action": "hang"}).action == Hang()
        assert Rule.model_validate({"action": {"kind": "hang", "billed": True}}).action == Hang(billed=True)


# --- as a process -----------------------------------------------------------------------------------


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The stand-in as a process of its own; killed at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateways.standin_openai", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert started.stdout is not None
        async with asyncio.timeout(30):
            line = (await started.stdout.readline()).decode()
        ready = re.fullmatch(r"ready (http://127\.0\.0\.1:[0-9]+/v1)\n", line)
        assert ready is not None
        yield started, ready[1]
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


class TestProcess:
    async def test_options_work_and_counts_survive_a_kill(self, tmp_path: Path) -> None:
        """A line is on disk before the caller hears of its call."""
        log, faults = tmp_path / "calls.jsonl", tmp_path / "faults.json"
        faults.write_text('[{"match": {"nth": 2}, "action": "reset_after"}]')
        options = ("--port", "0", "--seed", "4", "--delay", "0.05", "--faults", str(faults), "--log", str(log))
        async with process(*options) as (standin, base_url), vendor_client(base_url) as vendor:
            await vendor.chat.completions.create(model="gpt-x", messages=HELLO, store=True, metadata={"op": "a"})
            with pytest.raises(openai.APIConnectionError):
                await vendor.chat.completions.create(model="gpt-x", messages=HELLO, store=True, metadata={"op": "b"})
            standin.kill()
            await standin.wait()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(line["op"], line["outcome"], line["billed"]) for line in lines] == [
            ("a", "completed", True),
            ("b", "reset_after", True),
        ]

    async def test_a_log_is_continued(self, tmp_path: Path) -> None:
        log = tmp_path / "calls.jsonl"
        for _ in range(2):
            async with StandInOpenAI(log=log) as standin, vendor_client(standin.base_url) as vendor:
                await vendor.chat.completions.create(model="gpt-x", messages=HELLO)
        assert len(log.read_text().splitlines()) == 2

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
    async def test_it_leaves_on_a_signal(self) -> None:
        async with process() as (standin, _):
            standin.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                assert await standin.wait() == 0

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
    async def test_a_killed_caller_pays_all_the_same(self) -> None:
        """The caller is a process of its own, killed while the work goes on."""
        body = json.dumps({"model": "gpt-x", "messages": HELLO, "store": True, "metadata": {"op": "killed"}})
        async with StandInOpenAI(delay=0.4) as slow:
            program = (
                "import urllib.request as u; u.urlopen(u.Request("
                f"{slow.base_url!r} + '/chat/completions', {body.encode()!r}, {{'Authorization': 'Bearer k'}}))"
            )
            caller = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
            await slow.until(lambda stats: bool(stats["in_flight"]))
            caller.kill()
            await caller.wait()
            await slow.until(lambda stats: bool(stats["billed"]))
            assert [(call.op, call.stored, call.client_gone) for call in slow.calls] == [("killed", True, True)]
