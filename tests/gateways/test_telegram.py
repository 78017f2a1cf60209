"""The gateway against the stand-in over a socket, and the stand-in against somebody else's client."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from telegram import Bot
from telegram.error import BadRequest, Forbidden, NetworkError, RetryAfter

from core.ids import new_id
from domain.errors import Outcome
from domain.publishing.channels import Change, Sight, Target
from domain.publishing.content import Button, MediaItem, PostContent, render
from gateways.standin_telegram import Fault, FaultKind, StandInTelegram
from gateways.standin_telegram.server import Limits
from gateways.telegram import TelegramGateway, classify_answer
from tests.support.publishing import TOKEN, new_http

CHAT = -100
TARGET = Target(tenant_id=new_id(), chat_id=str(CHAT), audit_chat_id="-200")
HELLO = render(PostContent(text="<b>hello</b> <a href='https://example.org/'>there</a>", format="html"))


@pytest.fixture
async def standin() -> AsyncIterator[StandInTelegram]:
    async with StandInTelegram(seed=3) as running:
        running.world.add_chat(CHAT, username="news", admins=[TOKEN])
        running.world.add_chat(-200, kind="supergroup")
        yield running


@pytest.fixture
async def gateway(standin: StandInTelegram) -> AsyncIterator[TelegramGateway]:
    async with new_http() as http:
        yield TelegramGateway(client=http, base_url=standin.origin)


TABLE: list[tuple[int, Any, Outcome, str]] = [
    (200, {"ok": True, "result": {}}, Outcome.DONE, ""),
    (200, "not json", Outcome.UNKNOWN, "E.TELEGRAM.PROTOCOL"),
    (200, {"ok": True}, Outcome.UNKNOWN, "E.TELEGRAM.PROTOCOL"),
    (302, {"ok": False}, Outcome.UNKNOWN, "E.TELEGRAM.UNAVAILABLE"),
    (429, {"ok": False, "parameters": {"retry_after": 7}}, Outcome.NOT_SENT, "E.TELEGRAM.RATE_LIMITED"),
    (429, {"ok": False}, Outcome.NOT_SENT, "E.TELEGRAM.RATE_LIMITED"),
    (400, {"ok": False, "description": 'failed to send message #2 with the error message "Too Many Requests"'},
     Outcome.UNKNOWN, "E.TELEGRAM.PARTIAL"),
    (400, {"ok": False, "parameters": {"migrate_to_chat_id": -9}}, Outcome.REJECTED, "E.TELEGRAM.MIGRATED"),
    (400, {"ok": False, "description": "Bad Request: can't parse entities"}, Outcome.REJECTED, "E.TELEGRAM.REJECTED"),
    (400, {"ok": False, "description": "Bad Request: chat not found"}, Outcome.REJECTED, "E.TELEGRAM.RIGHTS"),
    (401, {"ok": False, "description": "Unauthorized"}, Outcome.REJECTED, "E.TELEGRAM.AUTH"),
    (403, {"ok": False, "description": "Forbidden: bot was kicked"}, Outcome.REJECTED, "E.TELEGRAM.RIGHTS"),
    (404, {"ok": False, "description": "Not Found"}, Outcome.REJECTED, "E.TELEGRAM.AUTH"),
    (500, {"ok": False, "description": "Internal Server Error: restart"}, Outcome.UNKNOWN, "E.TELEGRAM.UNAVAILABLE"),
    (502, None, Outcome.UNKNOWN, "E.TELEGRAM.PROTOCOL"),
]  # fmt: skip


class TestOutcomes:
    @pytest.mark.parametrize(("status", "body", "outcome", "code"), TABLE)
    def test_table(self, status: int, body: Any, outcome: Outcome, code: str) -> None:
        answer = classify_answer(status, body)
        assert (answer.outcome, answer.code or "") == (outcome, code)

    @pytest.mark.parametrize(
        ("fault", "outcome"),
        [
            (FaultKind.DROP_BEFORE, Outcome.UNKNOWN),
            (FaultKind.DROP_AFTER, Outcome.UNKNOWN),
            (FaultKind.STATUS_BEFORE, Outcome.UNKNOWN),
            (FaultKind.STATUS_AFTER, Outcome.UNKNOWN),
        ],
    )
    async def test_faults_over_the_wire(
        self, standin: StandInTelegram, gateway: TelegramGateway, fault: FaultKind, outcome: Outcome
    ) -> None:
        standin.faults.add(Fault(kind=fault))
        assert (await gateway.post(TOKEN, TARGET, HELLO)).outcome is outcome

    async def test_nobody_listens(self) -> None:
        async with new_http() as http:
            report = await TelegramGateway(client=http, base_url="http://127.0.0.1:9").post(TOKEN, TARGET, HELLO)
        assert (report.outcome, report.code) == (Outcome.NOT_SENT, "E.TELEGRAM.CONNECTION")
        assert TOKEN not in repr(report)

    async def test_silence_is_unknown_and_says_no_token(
        self, standin: StandInTelegram, gateway: TelegramGateway
    ) -> None:
        standin.faults.add(Fault(kind=FaultKind.DELAY_AFTER, seconds=3))
        report = await gateway.post(TOKEN, TARGET, HELLO)
        assert (report.outcome, report.code) == (Outcome.UNKNOWN, "E.TELEGRAM.TIMEOUT")
        assert TOKEN not in repr(report)

    async def test_limits_are_the_law(self, standin: StandInTelegram, gateway: TelegramGateway) -> None:
        standin.limits = Limits()
        first, second = [await gateway.post(TOKEN, TARGET, HELLO) for _ in range(2)]
        assert first.outcome is Outcome.DONE
        assert (second.outcome, second.frozen) == (Outcome.NOT_SENT, "chat")
        assert second.retry_after is not None


class TestLooking:
    async def test_finds_its_own_among_others(self, standin: StandInTelegram, gateway: TelegramGateway) -> None:
        before = await gateway.post(TOKEN, TARGET, render(PostContent(text="another")))
        mine = await gateway.post(TOKEN, TARGET, HELLO)
        await gateway.post(TOKEN, TARGET, render(PostContent(text="hello there")))
        probe = await gateway.find(TOKEN, TARGET, HELLO, after=before.message_ids[0] - 1, known=frozenset())
        assert (probe.sight, probe.message_ids) == (Sight.FOUND, mine.message_ids)

    async def test_nothing_there(self, gateway: TelegramGateway) -> None:
        probe = await gateway.find(TOKEN, TARGET, HELLO, after=9_000, known=frozenset())
        assert probe.sight is Sight.ABSENT

    async def test_what_is_accounted_for_is_not_found_again(
        self, standin: StandInTelegram, gateway: TelegramGateway
    ) -> None:
        [one] = (await gateway.post(TOKEN, TARGET, HELLO)).message_ids
        probe = await gateway.find(TOKEN, TARGET, HELLO, after=one - 1, known=frozenset({one}))
        assert probe.sight is Sight.ABSENT

    async def test_failed_look_proves_nothing(self, standin: StandInTelegram, gateway: TelegramGateway) -> None:
        standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, method="forwardMessages"))
        standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, method="forwardMessage"))
        probe = await gateway.find(TOKEN, TARGET, HELLO, after=9_000, known=frozenset())
        assert probe.sight is Sight.BLIND

    async def test_formatting_and_spaces_do_not_hide_it(
        self, standin: StandInTelegram, gateway: TelegramGateway
    ) -> None:
        link = {"type": "text_link", "offset": 3, "length": 4, "url": "https://Example.com"}
        content = render(PostContent.model_validate({"text": "\n  shop now ", "entities": [link]}))
        assert (content.text, content.entities[0].offset) == ("shop now", 0)
        padded = content.model_copy(update={"text": "\n shop\u200b now ", "entities": content.entities})
        sent = await gateway.post(TOKEN, TARGET, padded)
        shown = standin.world.chats[CHAT].messages[sent.message_ids[0]]
        assert shown.entities[0]["url"] == "https://example.com/"
        probe = await gateway.find(TOKEN, TARGET, content, after=sent.message_ids[0] - 1, known=frozenset())
        assert (probe.sight, probe.message_ids) == (Sight.FOUND, sent.message_ids)

    async def test_more_than_can_be_looked_at_proves_nothing(
        self, standin: StandInTelegram, gateway: TelegramGateway
    ) -> None:
        first = standin.world.write(CHAT, "owner", seconds_ago=3_600)
        for number in range(70):
            standin.world.write(CHAT, f"owner {number}", seconds_ago=3_600)
        probe = await gateway.find(TOKEN, TARGET, HELLO, after=first.id, known=frozenset(), since=datetime.now(UTC))
        assert probe.sight is Sight.BLIND

    @pytest.mark.parametrize(
        ("text", "seconds_ago", "sight"),
        [
            ("of the owner", 0, Sight.BLIND),
            ("of the owner", 3_600, Sight.ABSENT),
            ("hello there", 3_600, Sight.BLIND),
            ("hello there", 0, Sight.FOUND),
        ],
    )
    async def test_a_post_that_nobody_accounts_for(
        self, standin: StandInTelegram, gateway: TelegramGateway, text: str, seconds_ago: int, sight: Sight
    ) -> None:
        after = standin.world.write(CHAT, text, seconds_ago=seconds_ago).id - 1
        probe = await gateway.find(TOKEN, TARGET, HELLO, after=after, known=frozenset(), since=datetime.now(UTC))
        assert probe.sight is sight

    @pytest.mark.parametrize("fault", [FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER])
    async def test_a_picture_without_words_is_never_known_again(
        self, standin: StandInTelegram, gateway: TelegramGateway, fault: FaultKind
    ) -> None:
        """The owner's picture looks just like the one that never went out."""
        picture = render(PostContent(media=(MediaItem(url="https://example.org/1.jpg"),)))
        after, since = standin.world.chats[CHAT].next_id - 1, datetime.now(UTC)
        standin.faults.add(Fault(kind=fault, method="sendPhoto"))
        assert (await gateway.post(TOKEN, TARGET, picture)).outcome is Outcome.UNKNOWN
        if fault is FaultKind.DROP_BEFORE:
            probe = await gateway.find(TOKEN, TARGET, picture, after=after, known=frozenset(), since=since)
            assert probe.sight is Sight.ABSENT
            standin.world.write(CHAT, "", media="photo")
        probe = await gateway.find(TOKEN, TARGET, picture, after=after, known=frozenset(), since=since)
        assert (probe.sight, probe.message_ids) == (Sight.BLIND, ())

    async def test_an_album_without_words_is_never_known_again(
        self, standin: StandInTelegram, gateway: TelegramGateway
    ) -> None:
        album = render(PostContent(media=(MediaItem(url="https://example.org/1.jpg"),) * 2))
        after = standin.world.write(CHAT, "", media="photo").id - 1
        standin.world.write(CHAT, "", media="photo")
        probe = await gateway.find(TOKEN, TARGET, album, after=after, known=frozenset(), since=datetime.now(UTC))
        assert (probe.sight, probe.message_ids) == (Sight.BLIND, ())

    async def test_unknown_beginning_proves_nothing(self, gateway: TelegramGateway) -> None:
        probe = await gateway.find(TOKEN, TARGET, HELLO, after=0, known=frozenset())
        assert probe.sight is Sight.BLIND

    async def test_protected_channel_proves_nothing(self, standin: StandInTelegram, gateway: TelegramGateway) -> None:
        [one] = (await gateway.post(TOKEN, TARGET, HELLO)).message_ids
        standin.world.chats[CHAT].protected = True
        probe = await gateway.find(TOKEN, TARGET, HELLO, after=one - 1, known=frozenset())
        assert probe.sight is Sight.BLIND
        assert await gateway.is_there(TOKEN, TARGET, one) is None

    async def test_protected_channel_is_refused(self, standin: StandInTelegram, gateway: TelegramGateway) -> None:
        assert (await gateway.look_at(TOKEN, TARGET)).faults == ()
        standin.world.chats[CHAT].protected = True
        assert "protects" in (await gateway.look_at(TOKEN, TARGET)).faults[0]

    async def test_a_message_of_the_check_that_cannot_be_forwarded(
        self, standin: StandInTelegram, gateway: TelegramGateway
    ) -> None:
        standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, method="forwardMessage", status=403))
        assert "audit chat" in (await gateway.look_at(TOKEN, TARGET)).faults[0]
        assert standin.world.chats[CHAT].messages == {}

    async def test_album(self, standin: StandInTelegram, gateway: TelegramGateway) -> None:
        photos = tuple(MediaItem(url=f"https://example.org/{n}.jpg") for n in range(3))
        album = render(PostContent(text="three", media=photos))
        sent = await gateway.post(TOKEN, TARGET, album)
        assert len(sent.message_ids) == 3
        probe = await gateway.find(TOKEN, TARGET, album, after=sent.message_ids[0] - 1, known=frozenset())
        assert (probe.sight, probe.message_ids) == (Sight.FOUND, sent.message_ids)


class TestChanges:
    async def test_may_be_repeated(self, standin: StandInTelegram, gateway: TelegramGateway) -> None:
        button = Button(text="More", url="https://example.org/")
        post = render(PostContent(text="x", buttons=(button,)))
        [one] = (await gateway.post(TOKEN, TARGET, post)).message_ids
        for _ in range(2):
            assert await gateway.pin(TOKEN, TARGET, one) is Change.DONE
        assert await gateway.unpin(TOKEN, TARGET, one) is Change.DONE
        for _ in range(2):
            assert await gateway.replace(TOKEN, TARGET, one, "over", caption=False) is Change.DONE
        assert await gateway.is_there(TOKEN, TARGET, one) is True
        assert await gateway.remove(TOKEN, TARGET, one) is Change.DONE
        assert await gateway.remove(TOKEN, TARGET, one) is Change.GONE
        assert await gateway.is_there(TOKEN, TARGET, one) is False

    async def test_no_bot_deletes_after_48_hours(self, standin: StandInTelegram, gateway: TelegramGateway) -> None:
        [one] = (await gateway.post(TOKEN, TARGET, HELLO)).message_ids
        standin.world.ahead_seconds += 48 * 3600 + 5
        assert await gateway.remove(TOKEN, TARGET, one) is Change.DENIED


class TestJudge:
    """python-telegram-bot, which knows Telegram from elsewhere, takes the stand-in for the real one."""

    @pytest.fixture
    async def bot(self, standin: StandInTelegram) -> AsyncIterator[Bot]:
        async with Bot(TOKEN, base_url=f"{standin.origin}/bot") as made:
            yield made

    async def test_messages(self, standin: StandInTelegram, bot: Bot) -> None:
        assert (await bot.get_me()).id == 4242
        message = await bot.send_message(CHAT, "hello")
        assert (message.text, message.chat.username) == ("hello", "news")
        copy = await bot.forward_message(-200, CHAT, message.message_id)
        assert copy.forward_origin is not None
        assert await bot.pin_chat_message(CHAT, message.message_id)
        edited = await bot.edit_message_text("bye", CHAT, message.message_id)
        assert not isinstance(edited, bool)
        assert edited.text == "bye"
        assert await bot.delete_message(CHAT, message.message_id)
        with pytest.raises(BadRequest, match="not found"):
            await bot.delete_message(CHAT, message.message_id)

    async def test_rights_and_chats(self, standin: StandInTelegram, bot: Bot) -> None:
        member = await bot.get_chat_member(CHAT, 4242)
        assert member.status == "administrator"
        assert (await bot.get_chat("@news")).id == CHAT
        standin.world.chats[CHAT].rights.clear()
        with pytest.raises(Forbidden):
            await bot.send_message(CHAT, "hello")

    async def test_faults(self, standin: StandInTelegram, bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PTB_TIMEDELTA", "true")
        standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, status=429, retry_after=3))
        with pytest.raises(RetryAfter):
            await bot.send_message(CHAT, "hello")
        standin.faults.add(Fault(kind=FaultKind.DROP_AFTER))
        with pytest.raises(NetworkError):
            await bot.send_message(CHAT, "hello")

    async def test_updates(self, standin: StandInTelegram, bot: Bot) -> None:
        standin.world.say(TOKEN, chat_id=5, sender=5, text="/book")
        [update] = await bot.get_updates()
        assert update.message is not None
        assert update.message.text == "/book"
