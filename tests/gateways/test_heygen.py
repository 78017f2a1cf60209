"""The gateway against the stand-in over a socket, and what each answer means."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from core.ids import new_id
from domain.errors import Outcome, PriceUnknown, ProviderError
from domain.video import FilmWish, RenderOrder, RenderStatus
from gateways.heygen import HeyGenRenderer, _judge
from gateways.standin_heygen import Fault, FaultKind, Play, StandInHeyGen
from gateways.standin_heygen.wire import CreateVideoFromAvatar
from gateways.standin_heygen.world import KEY
from gateways.webhooks import GuardedClient
from tests.support.publishing import new_http
from tests.support.renders import PRICES
from tests.support.waiting import eventually

WISH = FilmWish(script="A canary of a script.", avatar="ada", voice="v1", engine="avatar_iii", resolution="1080p")


@pytest.fixture
async def standin() -> AsyncIterator[StandInHeyGen]:
    async with StandInHeyGen(seed=3, play=Play(seconds=0)) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with new_http() as client:
        yield client


def renderer_of(http: httpx.AsyncClient, origin: str, **more: Any) -> HeyGenRenderer:
    files = GuardedClient(http, exempt=[origin.removeprefix("http://")], timeout_seconds=5)
    values = {"api_key": KEY, "prices": PRICES, "at_once": 10, **more}
    return HeyGenRenderer(client=http, files=files, base_url=origin, **values)


@pytest.fixture
def renderer(standin: StandInHeyGen, http: httpx.AsyncClient) -> HeyGenRenderer:
    return renderer_of(http, standin.origin)


def order_of(renderer: HeyGenRenderer, wish: FilmWish = WISH) -> RenderOrder:
    return renderer.order(wish, render_id=new_id(), tenant_id=new_id(), lesson="1.2")


async def fetched(renderer: HeyGenRenderer, url: str) -> bytes:
    return b"".join([chunk async for chunk in renderer.fetch(url)])


TABLE: list[tuple[int, Any, Outcome, bool, str]] = [
    (400, {"error": {"code": "invalid_parameter"}}, Outcome.REJECTED, False, "E.HEYGEN.REJECTED"),
    (401, {"error": {"code": "unauthorized"}}, Outcome.REJECTED, False, "E.HEYGEN.AUTH"),
    (401, {"error": {"code": "authentication_failed"}}, Outcome.REJECTED, False, "E.HEYGEN.AUTH"),
    (402, {"error": {"code": "insufficient_credit"}}, Outcome.REJECTED, False, "E.HEYGEN.QUOTA"),
    (403, {"error": {"code": "forbidden"}}, Outcome.REJECTED, False, "E.HEYGEN.AUTH"),
    (404, {"error": {"code": "not_found"}}, Outcome.REJECTED, False, "E.HEYGEN.REJECTED"),
    (408, None, Outcome.UNKNOWN, True, "E.HEYGEN.TIMEOUT"),
    (409, {"error": {"code": "request_in_progress"}}, Outcome.UNKNOWN, True, "E.HEYGEN.IN_PROGRESS"),
    (429, {"error": {"code": "rate_limit_exceeded"}}, Outcome.NOT_SENT, True, "E.HEYGEN.RATE_LIMITED"),
    (500, None, Outcome.UNKNOWN, True, "E.HEYGEN.UNAVAILABLE"),
    (502, "<html>", Outcome.UNKNOWN, True, "E.HEYGEN.UNAVAILABLE"),
    (301, None, Outcome.REJECTED, False, "E.HEYGEN.PROTOCOL"),
    (200, {"error": {"code": "insufficient_credit"}}, Outcome.REJECTED, False, "E.HEYGEN.QUOTA"),
    (200, {"error": {"code": "something_new"}}, Outcome.UNKNOWN, True, "E.HEYGEN.UNAVAILABLE"),
    (200, {"data": {}, "error": {"message": "text that nobody may see"}}, Outcome.UNKNOWN, True,
     "E.HEYGEN.UNAVAILABLE"),
    (200, "no json", Outcome.UNKNOWN, True, "E.HEYGEN.PROTOCOL"),
]  # fmt: skip


class TestOutcomes:
    @pytest.mark.parametrize(("status", "body", "outcome", "again", "code"), TABLE)
    def test_table(self, status: int, body: Any, outcome: Outcome, again: bool, code: str) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        with pytest.raises(ProviderError) as refused:
            _judge(httpx.Response(status), content)
        fault = refused.value
        assert (fault.outcome, fault.may_retry, fault.code) == (outcome, again, code)
        assert "text" not in fault.detail

    @pytest.mark.parametrize(("said", "seconds"), [("7", 7), ("0.5", 0.5), ("soon", 5), (None, 5), ("99999", 300)])
    def test_when_to_come_back(self, said: str | None, seconds: float) -> None:
        headers = {} if said is None else {"retry-after": said}
        with pytest.raises(ProviderError) as refused:
            _judge(httpx.Response(429, headers=headers), b"{}")
        assert refused.value.retry_after == timedelta(seconds=seconds)

    @pytest.mark.parametrize(
        ("fault", "outcome"),
        [
            (FaultKind.DROP_BEFORE, Outcome.UNKNOWN),
            (FaultKind.DROP_AFTER, Outcome.UNKNOWN),
            (FaultKind.STATUS_BEFORE, Outcome.UNKNOWN),
            (FaultKind.STATUS_AFTER, Outcome.UNKNOWN),
            (FaultKind.ERROR_IN_200, Outcome.UNKNOWN),
        ],
    )
    async def test_faults_over_the_wire(
        self, standin: StandInHeyGen, renderer: HeyGenRenderer, fault: FaultKind, outcome: Outcome
    ) -> None:
        standin.faults.add(Fault(kind=fault))
        with pytest.raises(ProviderError) as refused:
            await renderer.submit(order_of(renderer))
        assert refused.value.outcome is outcome
        assert refused.value.may_retry

    async def test_nobody_listens(self, http: httpx.AsyncClient) -> None:
        renderer = renderer_of(http, "http://127.0.0.1:9")
        with pytest.raises(ProviderError) as refused:
            await renderer.submit(order_of(renderer))
        assert (refused.value.outcome, refused.value.code) == (Outcome.NOT_SENT, "E.HEYGEN.CONNECTION")

    async def test_a_wrong_key_is_not_quoted(self, standin: StandInHeyGen, http: httpx.AsyncClient) -> None:
        renderer = renderer_of(http, standin.origin, api_key="canary-of-a-key")
        with pytest.raises(ProviderError) as refused:
            await renderer.submit(order_of(renderer))
        assert refused.value.code == "E.HEYGEN.AUTH"
        assert "canary" not in repr(refused.value)
        with pytest.raises(ValueError, match="no HTTP header"):
            renderer_of(http, standin.origin, api_key="a key\n")


class TestOrders:
    def test_the_order_is_what_the_documentation_has(self, renderer: HeyGenRenderer) -> None:
        order = order_of(renderer)
        wish = CreateVideoFromAvatar.model_validate_json(order.body)
        assert wish.engine.type == "avatar_iii"
        assert (wish.script, wish.voice_id, wish.resolution) == (WISH.script, "v1", "1080p")
        assert order.title == wish.title == f"longhaul {wish.callback_id}"

    def test_the_key_follows_the_body(self, renderer: HeyGenRenderer) -> None:
        render_id, tenant_id = new_id(), new_id()

        def key(script: str) -> str:
            wish = WISH.model_copy(update={"script": script})
            return renderer.order(wish, render_id=render_id, tenant_id=tenant_id, lesson="1.2").key

        assert key("a") == key("a") != key("b")
        assert key("a").startswith(f"hg:{tenant_id}:1.2:")

    def test_an_engine_without_a_price_is_refused(self, renderer: HeyGenRenderer) -> None:
        with pytest.raises(PriceUnknown):
            renderer.price("avatar_v")

    async def test_the_same_order_is_one_render(self, standin: StandInHeyGen, renderer: HeyGenRenderer) -> None:
        order = order_of(renderer)
        assert await renderer.submit(order) == await renderer.submit(order)
        assert len(standin.world.renders) == 1
        await renderer.submit(order_of(renderer))
        assert len(standin.world.renders) == 2

    async def test_one_that_is_being_carried_out(self, standin: StandInHeyGen, renderer: HeyGenRenderer) -> None:
        order = order_of(renderer)
        standin.world.in_progress.add(order.key)
        with pytest.raises(ProviderError) as refused:
            await renderer.submit(order)
        assert refused.value.code == "E.HEYGEN.IN_PROGRESS"

    async def test_found_by_its_very_title(self, standin: StandInHeyGen, renderer: HeyGenRenderer) -> None:
        order = order_of(renderer)
        made = await renderer.submit(order)
        assert await renderer.find(order.title) == made
        assert await renderer.find(order.title[:-1]) is None

    async def test_no_more_at_once_than_there_are_places(self, http: httpx.AsyncClient) -> None:
        async with StandInHeyGen(at_once=1, play=Play(seconds=60)) as standin:
            renderer = renderer_of(http, standin.origin)
            await renderer.submit(order_of(renderer))
            with pytest.raises(ProviderError) as refused:
                await renderer.submit(order_of(renderer))
        assert refused.value.code == "E.HEYGEN.RATE_LIMITED"
        assert refused.value.retry_after == timedelta(seconds=1)


class TestLooks:
    async def test_until_it_is_done(self, standin: StandInHeyGen, renderer: HeyGenRenderer) -> None:
        standin.world.play = Play(seconds=3_000)
        video_id = await renderer.submit(order_of(renderer))
        assert (await renderer.look(video_id)).status is RenderStatus.PENDING
        standin.world.ahead_seconds = 2_000
        assert (await renderer.look(video_id)).status is RenderStatus.PROCESSING
        standin.world.ahead_seconds = 3_100
        sight = await renderer.look(video_id)
        assert (sight.status, sight.seconds) == (RenderStatus.COMPLETED, 1.21)
        assert sight.url is not None
        assert await fetched(renderer, sight.url) == standin.world.renders[video_id].body()

    async def test_one_that_failed(self, standin: StandInHeyGen, renderer: HeyGenRenderer) -> None:
        standin.world.play = Play(seconds=0, end="failed")
        sight = await renderer.look(await renderer.submit(order_of(renderer)))
        assert (sight.status, sight.failure) == (RenderStatus.FAILED, "render_failed")

    @pytest.mark.parametrize("video_id", ["", "../users", "a b", "nobody"])
    async def test_ids_that_make_no_sense(self, renderer: HeyGenRenderer, video_id: str) -> None:
        with pytest.raises(ProviderError):
            await renderer.look(video_id)


class TestFiles:
    async def test_an_address_that_is_too_old(self, standin: StandInHeyGen, renderer: HeyGenRenderer) -> None:
        sight = await renderer.look(await renderer.submit(order_of(renderer)))
        assert sight.url is not None
        standin.world.ahead_seconds = 4_000
        with pytest.raises(ProviderError) as refused:
            await fetched(renderer, sight.url)
        assert (refused.value.code, refused.value.may_retry) == ("E.HEYGEN.EXPIRED", True)

    async def test_a_file_that_ends_early(self, standin: StandInHeyGen, renderer: HeyGenRenderer) -> None:
        sight = await renderer.look(await renderer.submit(order_of(renderer)))
        standin.faults.add(Fault(kind=FaultKind.CUT_SHORT, call="file"))
        assert sight.url is not None
        with pytest.raises(ProviderError) as refused:
            await fetched(renderer, sight.url)
        assert (refused.value.code, refused.value.may_retry) == ("E.HEYGEN.CONNECTION", True)
        assert len(await fetched(renderer, sight.url)) > 20_000

    @pytest.mark.parametrize(
        "url",
        ["http://127.0.0.1:1/video.mp4", "https://10.0.0.1/video.mp4", "file:///etc/passwd", "https://localhost/"],
    )
    async def test_only_from_the_public_internet(self, renderer: HeyGenRenderer, url: str) -> None:
        with pytest.raises(ProviderError) as refused:
            await fetched(renderer, url)
        assert (refused.value.code, refused.value.may_retry) == ("E.HEYGEN.ADDRESS", False)
        assert url not in refused.value.detail


class TestStandIn:
    @pytest.mark.parametrize(
        "change",
        [
            {"engine": None}, {"script": None}, {"script": "x" * 5_001}, {"audio_url": "https://a.example/a.mp3"},
            {"resolution": "8k"}, {"avatar_id": ""}, {"unheard_of": 1}, {"type": "image"},
        ],
    )  # fmt: skip
    async def test_takes_only_what_is_documented(
        self, standin: StandInHeyGen, renderer: HeyGenRenderer, change: dict[str, Any]
    ) -> None:
        order = order_of(renderer)
        body = json.dumps({**json.loads(order.body), **change})
        with pytest.raises(ProviderError) as refused:
            await renderer.submit(order.model_copy(update={"body": body}))
        assert refused.value.code == "E.HEYGEN.REJECTED"
        assert standin.world.renders == {}

    async def test_is_played_over_the_wire(self, standin: StandInHeyGen, renderer: HeyGenRenderer) -> None:
        async with httpx.AsyncClient(base_url=standin.origin, trust_env=False) as world:
            play = Play(seconds=600).model_dump()
            assert (await world.post("/control/play", json=play)).status_code == 200
            await world.post("/control/faults", json=[{"kind": "status_before", "status": 503}])
            with pytest.raises(ProviderError):
                await renderer.submit(order_of(renderer))
            video_id = await renderer.submit(order_of(renderer))
            await world.post("/control/clock", json={"advance_seconds": 700})
            shown = (await world.get("/control/renders")).json()["renders"]
            assert [(one["id"], one["status"]) for one in shown] == [(video_id, "completed")]
            headers = {"X-Api-Key": KEY}

            async def events() -> list[Any]:
                found: list[Any] = (await world.get("/v3/webhooks/events", headers=headers)).json()["data"]
                return found

            assert await events() == []
            standin.world.play = Play(seconds=0)
            await renderer.submit(order_of(renderer))
            await eventually(events, within=60.0)
