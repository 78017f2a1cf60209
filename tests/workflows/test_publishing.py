"""Orders on real Temporal and a stand-in Telegram: what people book is what the channel shows."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from domain.errors import InvalidInput, NotFound, StateError
from domain.jobs import JobAction
from domain.publishing.orders import OrderChange
from gateways.standin_telegram import Fault, FaultKind
from repositories.jobs import JobRepository
from repositories.publishing.bots import BotRepository
from repositories.publishing.orders import OrderRepository
from repositories.webhooks import WebhookRepository
from services.jobs import JobRequest
from services.publishing.dialogs import BotPoller
from tests.replay.publishing import talk
from tests.support.orders import Orders
from tests.support.publishing import BOX, QUICK, TOKEN
from tests.support.waiting import eventually

CHAT = -1001


class TestOrder:
    async def test_is_published_pinned_and_removed_at_its_time(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "hello", within=1.0, lasts=2.0, pin=True)
        assert (await orders.until(order_id, "armed")).armed_at is not None
        pinned = await orders.until(order_id, "pinned")
        chat = orders.standin.world.chats[CHAT]
        assert chat.pinned == pinned.message_ids
        assert chat.messages[pinned.message_ids[0]].text == "hello"
        assert 0 <= pinned.drift_ms < 30_000
        await orders.until(order_id, "removed")
        done = await orders.until_job(order_id, "succeeded")
        assert pinned.message_ids[0] not in chat.messages
        assert done.ended_at >= done.remove_at

    async def test_is_removed_at_its_time_though_it_could_not_be_pinned(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        orders.standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, method="pinChatMessage", times=99))
        order_id = await orders.book(channel, "never pinned", lasts=1.5, pin=True)
        done = await orders.until_job(order_id, "succeeded", within=30)
        assert done.state == "removed"
        assert orders.standin.world.chats[CHAT].messages == {}
        async with orders.shop.database.tenant(orders.shop.tenant_id) as connection:
            report = (await JobRepository(connection).get_result(order_id)).result
            assert [task.kind for task in await OrderRepository(connection).get_tasks(order_id)] == ["pin"]
        assert report["pin"] == "unreached"

    async def test_dropped_connection_is_looked_into_and_not_repeated(self, orders: Orders) -> None:
        """The stand-in publishes and drops the connection: the post is found, and is there once."""
        channel = await orders.shop.add_channel(CHAT)
        orders.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER, chat_id=str(CHAT)))
        order_id = await orders.book(channel, "once", finish="keep")
        await orders.until_job(order_id, "succeeded")
        assert orders.shop.posted(CHAT) == ["once"]
        ledger = await orders.shop.ledger(order_id)
        assert ledger is not None
        assert (ledger.state, ledger.sends, ledger.doubts, ledger.resolved_by) == ("done", 1, 1, "probe:forward")

    async def test_lost_request_is_sent_again_after_proof_of_absence(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        orders.standin.faults.add(Fault(kind=FaultKind.DROP_BEFORE, chat_id=str(CHAT)))
        order_id = await orders.book(channel, "again", finish="keep")
        await orders.until_job(order_id, "succeeded")
        assert orders.shop.posted(CHAT) == ["again"]
        ledger = await orders.shop.ledger(order_id)
        assert ledger is not None
        assert ledger.sends == 2
        assert [look["sight"] for look in ledger.evidence] == ["absent"] * 3

    async def test_without_an_audit_chat_the_public_preview_is_a_witness(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT, audit=False, username="news")
        orders.standin.world.chats[CHAT].username = "news"
        orders.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER, chat_id=str(CHAT)))
        order_id = await orders.book(channel, "seen by all", finish="keep")
        await orders.until_job(order_id, "succeeded")
        assert orders.shop.posted(CHAT) == ["seen by all"]
        row = await orders.shop.ledger(order_id)
        assert row is not None
        assert row.resolved_by == "probe:telegram_preview"
        assert [look["sight"] for look in row.evidence] == ["blind", "found"]

    async def test_without_an_audit_chat_a_person_decides(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT, audit=False)
        orders.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER, chat_id=str(CHAT)))
        order_id = await orders.book(channel, "doubt", finish="keep")
        await orders.until(order_id, "needs_person")
        with pytest.raises(InvalidInput):
            await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="sent", message_ids=())
        there = orders.standin.world.chats[CHAT].posted[0].id
        await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="sent", message_ids=(there,))
        done = await orders.until_job(order_id, "succeeded")
        assert (done.state, done.message_ids) == ("finished", [there])

    async def test_album_that_failed_half_way_goes_to_a_person(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        orders.standin.faults.add(Fault(kind=FaultKind.PARTIAL_ALBUM, method="sendMediaGroup", done=2))
        photo = {"type": "photo", "url": "https://example.org/a.jpg"}
        order_id = await orders.book(channel, "", finish="keep", content={"text": "album", "media": [photo] * 3})
        await orders.until(order_id, "needs_person")
        ledger = await orders.shop.ledger(order_id)
        assert ledger is not None
        assert ledger.evidence[-1]["sight"] == "partly"
        assert len(ledger.evidence[-1]["message_ids"]) == 2
        await orders.service.resolve_order(orders.shop.tenant_id, order_id, decision="give_up", message_ids=())
        assert (await orders.until_job(order_id, "failed")).state == "missed"

    async def test_rebooked_in_its_sleep(self, orders: Orders) -> None:
        """The workflow answers what it has armed, and publishes then and not before."""
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "moved", within=600, finish="keep")
        await orders.until(order_id, "armed")
        soon = datetime.now(UTC) + timedelta(seconds=1.5)
        slot_id = await orders.shop.add_slot(channel, soon, lasts=timedelta(minutes=5))
        armed = await orders.service.change_order(orders.shop.tenant_id, order_id, OrderChange(slot_id=slot_id))
        assert armed.publish_at == soon
        sent = await orders.until(order_id, "finished", "live")
        assert sent.sent_at >= soon

    async def test_edited_in_its_sleep(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "before", within=1.5, finish="keep")
        await orders.until(order_id, "armed")
        change = OrderChange.model_validate({"content": {"text": "after"}})
        armed = await orders.service.change_order(orders.shop.tenant_id, order_id, change)
        assert armed.version > 1
        await orders.until_job(order_id, "succeeded")
        assert orders.shop.posted(CHAT) == ["after"]

    async def test_canceled_in_its_sleep(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "never", within=600)
        await orders.until(order_id, "armed")
        armed = await orders.service.cancel_order(orders.shop.tenant_id, order_id)
        assert armed.state == "canceled"
        await orders.until_job(order_id, "canceled")
        assert orders.shop.posted(CHAT) == []
        with pytest.raises(StateError):
            await orders.service.cancel_order(orders.shop.tenant_id, order_id)

    async def test_cancel_in_the_middle_of_sending_waits_for_the_outcome(self, orders: Orders) -> None:
        """The answer is on its way when the cancel comes: the post is out, is said to be, and is taken away."""
        channel = await orders.shop.add_channel(CHAT)
        orders.standin.faults.add(Fault(kind=FaultKind.DELAY_AFTER, chat_id=str(CHAT), seconds=1.0))
        order_id = await orders.book(channel, "mid-send")
        await orders.until(order_id, "sending")
        await eventually(lambda: asyncio.sleep(0, orders.shop.posted(CHAT)))
        armed = await orders.service.cancel_order(orders.shop.tenant_id, order_id)
        assert armed.state in {"live", "removed"}
        await orders.until_job(order_id, "canceled")
        assert (await orders.shop.order(order_id)).state == "removed"
        assert orders.standin.world.chats[CHAT].messages == {}

    async def test_cancel_of_the_job_is_the_same(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "job", within=600)
        await orders.until(order_id, "armed")
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.CANCEL)
        assert (await orders.until_job(order_id, "canceled")).state == "canceled"

    async def test_approval_comes_first(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT, requires_approval=True)
        order_id = await orders.book(channel, "agreed", within=1.5, finish="keep")
        await orders.until(order_id, "approval")
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.APPROVE)
        await orders.until(order_id, "armed")
        change = OrderChange.model_validate({"content": {"text": "another"}})
        with pytest.raises(InvalidInput) as refused:
            await orders.service.change_order(orders.shop.tenant_id, order_id, change)
        assert [fault.pointer for fault in refused.value.faults] == ["/content"]
        await orders.until_job(order_id, "succeeded")
        assert orders.shop.posted(CHAT) == ["agreed"]

    async def test_rejected_by_the_owner(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT, requires_approval=True)
        order_id = await orders.book(channel, "refused", within=600)
        await orders.until(order_id, "approval")
        await orders.jobs.act(orders.shop.tenant_id, order_id, JobAction.REJECT)
        assert (await orders.until_job(order_id, "failed")).state == "rejected"

    async def test_refused_by_the_channel(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "no rights")
        orders.standin.world.chats[CHAT].rights = {}
        assert (await orders.until_job(order_id, "failed")).state == "rejected"
        ledger = await orders.shop.ledger(order_id)
        assert ledger is not None
        assert ledger.error_code == "E.TELEGRAM.RIGHTS"

    async def test_refused_by_our_own_worker_people_are_told(self, orders: Orders) -> None:
        """No worker serves such channels: the attempt is refused before it stands in the ledger."""
        channel = await orders.shop.add_channel(CHAT, gateway="file")
        advertiser = {"name": "Ada", "notify": {"webhook_url": "https://example.org/hook", "telegram_chat_id": 78}}
        order_id = await orders.book(channel, "unserved", advertiser=advertiser)
        assert (await orders.until_job(order_id, "failed")).state == "rejected"
        async with orders.shop.database.tenant(orders.shop.tenant_id) as connection:
            assert (await JobRepository(connection).get_document(order_id)).error_code == "E.CHANNEL.UNSERVED"
            told = await WebhookRepository(connection).get_deliveries(limit=9, before=None, job_id=order_id)
        assert [one.type for one in told if one.type.startswith("order.")] == ["order.rejected"]

    async def test_late_is_missed_and_never_a_surprise(self, orders: Orders) -> None:
        """The other side asks for a minute's silence, the tolerance is a second: the post does not go out."""
        channel = await orders.shop.add_channel(CHAT)
        orders.standin.faults.add(Fault(kind=FaultKind.STATUS_BEFORE, status=429, retry_after=2, times=9))
        order_id = await orders.book(channel, "late", late={"tolerance_seconds": 1})
        assert (await orders.until_job(order_id, "failed")).state == "missed"
        assert orders.shop.posted(CHAT) == []

    async def test_somebody_else_removes_it_early(self, orders: Orders) -> None:
        orders.shop.desk.policy = type(QUICK)(
            probe_pauses=QUICK.probe_pauses, per_token_second=0, watch_every=timedelta(seconds=0.5)
        )
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "taken")
        live = await orders.until(order_id, "live")
        del orders.standin.world.chats[CHAT].messages[live.message_ids[0]]
        assert (await orders.until(order_id, "gone")).ended_at is not None
        await orders.until_job(order_id, "succeeded")

    async def test_lost_rights_leave_a_task_for_the_owner(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "stuck", lasts=1.5)
        await orders.until(order_id, "live")
        orders.standin.world.chats[CHAT].rights = {}

        async def tasks() -> list[str]:
            async with orders.shop.database.tenant(orders.shop.tenant_id) as connection:
                return [task.kind for task in await OrderRepository(connection).get_tasks(order_id)]

        assert await eventually(tasks) == ["remove"]

    async def test_stub_where_bots_may_not_delete(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "stub me", lasts=1.5, finish="stub", stub_text="over")
        done = await orders.until(order_id, "stubbed")
        assert orders.standin.world.chats[CHAT].messages[done.message_ids[0]].text == "over"

    async def test_chat_that_moved(self, orders: Orders) -> None:
        """A migrated chat is a refusal that names the new id; the post goes there, once."""
        channel = await orders.shop.add_channel(CHAT)
        orders.standin.world.migrate(CHAT, CHAT - 1)
        order_id = await orders.book(channel, "moved house", finish="keep")
        await orders.until_job(order_id, "succeeded")
        assert (orders.shop.posted(CHAT), orders.shop.posted(CHAT - 1)) == ([], ["moved house"])

    async def test_people_are_told_once(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT, notify={"telegram_chat_id": 77})
        advertiser = {"name": "Ada", "notify": {"telegram_chat_id": 78}}
        for person in (77, 78):
            orders.standin.world.add_chat(person, kind="private")
        order_id = await orders.book(channel, "told", finish="keep", advertiser=advertiser)
        await orders.until_job(order_id, "succeeded")
        for person in (77, 78):
            said = orders.shop.posted(person)
            assert [line.partition(" in ")[0] for line in said] == ["Your post is live", "Your post"]

    async def test_token_is_in_no_history(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        order_id = await orders.book(channel, "a canary of a text", finish="keep")
        await orders.until_job(order_id, "succeeded")
        history = await orders.client.get_workflow_handle(f"publishing.order/{order_id}").fetch_history()
        assert TOKEN not in history.to_json()
        raw = b"".join(event.SerializeToString() for event in history.events)
        assert TOKEN.encode() not in raw
        assert b"canary" not in raw


class TestSequence:
    async def test_deliveries_at_their_offsets_each_once(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        orders.standin.faults.add(Fault(kind=FaultKind.DROP_AFTER, chat_id=str(CHAT), skip=1))
        starts = datetime.now(UTC) + timedelta(seconds=0.3)
        wish = {
            "channel_id": str(channel.id), "starts_at": starts.isoformat(),
            "items": [{"offset_seconds": n, "content": {"text": f"lesson {n}"}} for n in range(3)],
        }  # fmt: skip
        started = await orders.jobs.start(
            orders.shop.tenant_id, JobRequest(kind="publishing.sequence", input=wish), key=None
        )

        async def states() -> list[str]:
            async with orders.shop.database.tenant(orders.shop.tenant_id) as connection:
                return [row.state for row in await OrderRepository(connection).get_of_job(started.document.id)]

        await eventually(states, lambda found: found == ["finished"] * 3)
        assert orders.shop.posted(CHAT) == ["lesson 0", "lesson 1", "lesson 2"]


class TestCheck:
    async def test_rights_and_where_ids_stand(self, orders: Orders) -> None:
        await orders.shop.add_channel(-5)
        orders.standin.world.add_chat(-6, title="Morning news", username="morning", admins=[TOKEN])
        wanted: dict[str, object] = {
            "gateway": "telegram", "chat_id": "@morning", "audit_chat_id": None, "time_zone": "Europe/Berlin",
            "credential_id": await orders.shop.add_credential(), "requires_approval": False, "notify": {},
        }  # fmt: skip
        channel, _ = await orders.service.connect_channel(orders.shop.tenant_id, wanted)

        async def look() -> object:
            return (await orders.shop.desk.counter_of(orders.shop.tenant_id, channel.id)).channel

        ready = await eventually(look, lambda row: row.state == "ready")  # type: ignore[attr-defined]
        assert (ready.chat_id, ready.title) == ("-6", "Morning news")  # type: ignore[attr-defined]
        assert ready.last_message_id == orders.standin.world.chats[-6].posted[-1].id  # type: ignore[attr-defined]
        assert orders.standin.world.chats[-6].messages == {}

    async def test_missing_right_is_named(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(-7)
        orders.standin.world.chats[-7].rights[4242] = {"can_post_messages"}
        await orders.service.check_channel(orders.shop.tenant_id, channel.id)

        async def look() -> object:
            return (await orders.shop.desk.counter_of(orders.shop.tenant_id, channel.id)).channel

        refused = await eventually(look, lambda row: row.state == "refused")  # type: ignore[attr-defined]
        assert "can_delete_messages" in str(refused.rights)  # type: ignore[attr-defined]


class TestDialog:
    async def test_books_a_slot_once_although_every_update_comes_twice(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        workflow, *said = await talk(orders, channel, text="from a chat")
        assert workflow.startswith("publishing.dialog/")
        assert [line.partition(" ")[0] for line in said] == ["Which", "Send", "Book", "Booked."]
        async with orders.shop.database.tenant(orders.shop.tenant_id) as connection:
            booked = await OrderRepository(connection).get_page(limit=9, before=None)
        assert [row.content["text"] for row in booked] == ["from a chat"]

    async def test_wrong_secret_is_a_stranger(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        bot_id, _ = await orders.dialogs.add_bot(orders.shop.tenant_id, channel_id=channel.id, polls=False)
        with pytest.raises(NotFound):
            await orders.dialogs.hear(bot_id, secret="wrong", update={"update_id": 1})

    async def test_long_polling_in_development(self, orders: Orders) -> None:
        channel = await orders.shop.add_channel(CHAT)
        await orders.dialogs.add_bot(orders.shop.tenant_id, channel_id=channel.id, polls=True)
        orders.standin.world.add_chat(9, kind="private")
        orders.standin.world.say(TOKEN, chat_id=9, sender=9, text="/book")
        poller = BotPoller(orders.shop.database, BOX, orders.shop.gateway, orders.dialogs)
        async with orders.shop.database.system() as connection:
            others = [bot.id for bot in await BotRepository(connection).get_polled()]
        assert others
        await poller.poll_once()
        await poller.poll_once()

        async def said() -> list[str]:
            return list(orders.shop.posted(9))

        assert await eventually(said) == ["There is no free slot now."]
