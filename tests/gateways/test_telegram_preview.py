"""What everybody sees of a public channel, and what may be concluded from it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from core.ids import new_id
from domain.publishing.channels import Sight, Target
from domain.publishing.content import MediaItem, PostContent, Rendered, render
from gateways.standin_telegram import StandInTelegram
from gateways.telegram import TelegramGateway
from gateways.telegram_preview import TelegramPreview
from tests.support.publishing import TOKEN, new_http

CHAT = -100
HELLO = render(PostContent(text="<b>Fish &amp; chips</b>\n\nat <i>noon</i>", format="html"))
NOTHING_KNOWN: frozenset[int] = frozenset()


@pytest.fixture
async def standin() -> AsyncIterator[StandInTelegram]:
    async with StandInTelegram(seed=3, gaps=0.0) as running:
        running.world.add_chat(CHAT, username="news", admins=[TOKEN])
        yield running


@pytest.fixture
async def preview(standin: StandInTelegram) -> AsyncIterator[TelegramPreview]:
    async with new_http() as http:
        yield TelegramPreview(client=http, base_url=standin.origin)


async def post(standin: StandInTelegram, content: Rendered = HELLO) -> int:
    async with new_http() as http:
        gateway = TelegramGateway(client=http, base_url=standin.origin)
        target = Target(tenant_id=new_id(), chat_id=str(CHAT))
        (message_id,) = (await gateway.post(TOKEN, target, content)).message_ids
        return message_id


class TestViews:
    @pytest.mark.parametrize(("views", "shown"), [(0, 0), (999, 999), (4_612, 4_600)])
    async def test_are_what_the_page_says(
        self, standin: StandInTelegram, preview: TelegramPreview, views: int, shown: int
    ) -> None:
        message_id = await post(standin)
        standin.world.chats[CHAT].messages[message_id].views = views
        counted = await preview.count("news", message_id)
        assert counted is not None
        assert (counted.views, counted.source) == (shown, "telegram_preview")

    async def test_of_what_is_not_there(self, preview: TelegramPreview) -> None:
        assert await preview.count("news", 10_000) is None
        assert await preview.count("nobody", 1) is None

    async def test_where_nobody_listens(self) -> None:
        async with new_http() as http:
            assert await TelegramPreview(client=http, base_url="http://127.0.0.1:1").count("news", 1) is None


class TestFinding:
    async def test_what_is_there_for_all_to_see(self, standin: StandInTelegram, preview: TelegramPreview) -> None:
        before, since = await post(standin, render(PostContent(text="something else"))), datetime.now(UTC)
        message_id = await post(standin)
        probe = await preview.find("news", HELLO, after=before, known=NOTHING_KNOWN, since=since)
        assert (probe.sight, probe.message_ids, probe.source) == (Sight.FOUND, (message_id,), "telegram_preview")

    async def test_not_shown_is_not_absent(self, standin: StandInTelegram, preview: TelegramPreview) -> None:
        before = await post(standin, render(PostContent(text="something else")))
        probe = await preview.find("news", HELLO, after=before, known=NOTHING_KNOWN, since=None)
        assert probe.sight is Sight.BLIND

    async def test_an_older_post_of_the_same_words(self, standin: StandInTelegram, preview: TelegramPreview) -> None:
        message_id = await post(standin)
        later = datetime.now(UTC) + timedelta(hours=1)
        probe = await preview.find("news", HELLO, after=message_id - 1, known=NOTHING_KNOWN, since=later)
        assert probe.sight is Sight.BLIND

    async def test_what_another_order_accounts_for(self, standin: StandInTelegram, preview: TelegramPreview) -> None:
        message_id = await post(standin)
        probe = await preview.find("news", HELLO, after=message_id - 1, known=frozenset({message_id}), since=None)
        assert probe.sight is Sight.BLIND

    async def test_an_album_is_never_called_whole(self, preview: TelegramPreview) -> None:
        items = tuple(MediaItem(type="photo", url=f"https://example.org/{n}.jpg") for n in range(2))
        album = render(PostContent(text="two", media=items))
        assert (await preview.find("news", album, after=5, known=NOTHING_KNOWN, since=None)).sight is Sight.BLIND

    async def test_where_nobody_listens(self) -> None:
        async with new_http() as http:
            preview = TelegramPreview(client=http, base_url="http://127.0.0.1:1")
            probe = await preview.find("news", HELLO, after=5, known=NOTHING_KNOWN, since=None)
        assert (probe.sight, probe.looked_to) == (Sight.BLIND, 6)
