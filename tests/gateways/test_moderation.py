"""Moderation over a socket: our gateway on the stand-in, and the vendor's own client as the judge of the stand-in."""

import json
from typing import Any, Final

import httpx
import openai
import pytest
from openai.types import ModerationTextInputParam

from core.http import HttpTimeouts, create_http_client
from domain.errors import Outcome, ProviderError
from gateways.moderation import MOST_TEXTS, OpenAIModerator
from gateways.standin_openai import Match, Rule, StandInOpenAI
from gateways.standin_openai.moderation import PHRASES
from gateways.standin_openai.script import MalformedJson, Status429

KEY: Final = "sk-test-0123456789"
ENDPOINT: Final = Match(endpoint="moderations")
TIMEOUTS: Final = HttpTimeouts(connect=5, read=60, write=60, pool=5)


def moderator(client: httpx.AsyncClient, base_url: str, model: str = "omni-moderation-latest") -> OpenAIModerator:
    """Our gateway."""
    return OpenAIModerator(client=client, base_url=base_url, api_key=KEY, model=model)


async def answered(answer: Any, *, texts: tuple[str, ...] = ("one",), status: int = 200) -> Any:
    """What the gateway makes of one given answer."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(status, content=json.dumps(answer)))
    async with httpx.AsyncClient(transport=transport) as client:
        return await moderator(client, "http://test/v1").moderate(texts=texts)


class TestJudgements:
    async def test_each_text_is_judged_in_order(self) -> None:
        """What is not flagged has no categories at all."""
        async with (
            StandInOpenAI(seed=3) as server,
            create_http_client(timeout=TIMEOUTS, proxy=None, user_agent="test") as client,
        ):
            judged = await moderator(client, server.base_url).moderate(
                texts=["peace", "a [violence] scene", "[hate] and [hate/threatening]", "peace"]
            )
        assert [sorted(one.categories) for one in judged] == [
            [], ["violence"], ["hate", "hate/threatening"], [],
        ]  # fmt: skip
        assert all(0.5 < score <= 1 for one in judged for score in one.categories.values())

    async def test_many_texts_are_few_calls(self) -> None:
        """As many in a call as the vendor surely takes; the order stays."""
        texts = [f"text {number}" for number in range(MOST_TEXTS + 3)] + ["[sexual/minors]"]
        async with (
            StandInOpenAI() as server,
            create_http_client(timeout=TIMEOUTS, proxy=None, user_agent="test") as client,
        ):
            judged = await moderator(client, server.base_url).moderate(texts=texts)
            assert [len(call) for call in server.moderations] == [MOST_TEXTS, 4]
            assert server.stats["arrived"] == server.stats["billed"] == 0
        assert [bool(one.categories) for one in judged] == [False] * (MOST_TEXTS + 3) + [True]

    async def test_an_objection_without_a_reason_is_one(self) -> None:
        result = {
            "flagged": True,
            "categories": {"violence": False, "illicit": None},
            "category_scores": {"illicit": None},
        }
        (judgement,) = await answered({"results": [result]})
        assert dict(judgement.categories) == {"unspecified": 0.0}


class TestFailures:
    @pytest.mark.parametrize("answer", [
        {"results": []}, {"results": [{"flagged": False}]}, {"results": "none"}, [], {"error": {"message": "no"}},
        {"results": [{"flagged": "no", "categories": {}, "category_scores": {}}]},
    ], ids=str)  # fmt: skip
    async def test_an_answer_that_is_none_is_never_taken_for_approval(self, answer: Any) -> None:
        """It is asked again."""
        with pytest.raises(ProviderError) as caught:
            await answered(answer)
        assert (caught.value.code, caught.value.may_retry) == ("E.OPENAI.PROTOCOL", True)

    @pytest.mark.parametrize(("action", "code", "retried"), [
        ("status_500_before", "E.OPENAI.UNAVAILABLE", True),
        ("status_500_after", "E.OPENAI.UNAVAILABLE", True),
        ("reset", "E.OPENAI.CONNECTION", True),
        ("error_in_200", "E.OPENAI.PROTOCOL", True),
        (MalformedJson(where="body"), "E.OPENAI.PROTOCOL", True),
        (Status429(retry_after=7), "E.OPENAI.RATE_LIMITED", True),
        ("insufficient_quota", "E.OPENAI.QUOTA", False),
    ], ids=str)  # fmt: skip
    async def test_faults_mean_what_they_mean_for_completions(self, action: Any, code: str, retried: bool) -> None:
        """One wire, one table."""
        async with (
            StandInOpenAI(faults=[Rule(match=ENDPOINT, action=action)]) as server,
            create_http_client(timeout=TIMEOUTS, proxy=None, user_agent="test") as client,
        ):
            with pytest.raises(ProviderError) as caught:
                await moderator(client, server.base_url).moderate(texts=["one"])
        assert (caught.value.code, caught.value.may_retry) == (code, retried)

    @pytest.mark.parametrize("status", [404, 405])
    async def test_a_server_without_moderation_says_how_to_go_on(self, status: int) -> None:
        """Trying again would not help, and silence would be no moderation."""
        with pytest.raises(ProviderError) as caught:
            await answered({"error": {"code": "unknown_url"}}, status=status)
        assert (caught.value.code, caught.value.outcome) == ("E.OPENAI.NO_MODERATION", Outcome.REJECTED)
        assert not caught.value.may_retry
        assert "LONGHAUL_OPENAI_MODERATION" in caught.value.detail

    async def test_no_text_gets_into_an_error(self) -> None:
        with pytest.raises(ProviderError) as caught:
            await answered(
                {"error": {"message": "secret text", "code": "bad thing"}}, texts=("secret text",), status=400
            )
        assert "secret" not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"


class TestStandIn:
    async def test_the_vendors_client_understands_it(self) -> None:
        """Every category that the vendor's model knows can be flagged, and only by its own phrase."""
        async with (
            StandInOpenAI(seed=1) as server,
            openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as client,
        ):
            answer = await client.moderations.create(model="omni-moderation-latest", input=list(PHRASES))
            for result, category in zip(answer.results, PHRASES.values(), strict=True):
                flagged = {name for name, hit in result.categories.model_dump(by_alias=True).items() if hit}
                assert (result.flagged, flagged) == (True, {category})
            parts = await client.moderations.create(input=[ModerationTextInputParam(type="text", text="peace")])
            assert [result.flagged for result in parts.results] == [False]
            single = await client.moderations.create(input="peace")
            assert len(single.results) == 1

    @pytest.mark.parametrize(("body", "status"), [
        ({"input": []}, 400), ({"input": ["a"], "extra": 1}, 400), ({"input": 5}, 400), ({}, 400),
        ({"input": "a", "model": "gpt-x"}, 404),
    ], ids=str)  # fmt: skip
    async def test_bad_requests_are_refused(self, body: Any, status: int) -> None:
        async with StandInOpenAI() as server, httpx.AsyncClient() as client:
            headers = {"Authorization": f"Bearer {KEY}"}
            assert (
                await client.post(f"{server.base_url}/moderations", json=body, headers=headers)
            ).status_code == status

    async def test_rules_without_an_endpoint_leave_moderation_alone(self) -> None:
        """Scripts of faults for completions mean what they meant."""
        async with (
            StandInOpenAI(faults=[Rule(action="reset")]) as server,
            create_http_client(timeout=TIMEOUTS, proxy=None, user_agent="test") as client,
        ):
            assert await moderator(client, server.base_url).moderate(texts=["one"])
