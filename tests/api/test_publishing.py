"""Publishing over HTTP: connecting, offering, booking, refusing; nothing of a neighbour, nothing secret."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from core.database import Database
from repositories.tables import channels, jobs, orders
from tests.api.conftest import MakeFront
from tests.api.support import Front, pointers, problem_of
from tests.support.publishing import TOKEN


def at(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


async def connect(
    front: Front, database: Database, *, gateway: str = "telegram", chat_id: str = "-77"
) -> dict[str, Any]:
    """A channel that a worker has found in order."""
    made = await front.http.post("/credentials", json={"name": "bot", "secret": TOKEN})
    assert TOKEN not in made.text
    wish = {"gateway": "telegram", "chat_id": "-77", "time_zone": "Europe/Berlin", "credential_id": made.json()["id"]}
    answer = await front.http.post("/channels", json=wish)
    assert answer.status_code == 201, answer.text
    channel: dict[str, Any] = answer.json()
    rights = {"can_post": True, "can_edit": True, "can_delete": True, "can_pin": True}
    async with database.tenant(front.tenant_id) as connection:
        await connection.execute(update(channels).values(state="ready", rights=rights))
    return channel


async def offer(front: Front, channel: dict[str, Any], **hours: float) -> str:
    starts, lasts = hours.get("starts", 1), hours.get("lasts", 1)
    slot = {"starts_at": at(hours=starts), "ends_at": at(hours=starts + lasts)}
    answer = await front.http.post(f"/channels/{channel['id']}/slots", json=slot)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


class TestChannels:
    @pytest.mark.parametrize("url", ["https://10.0.0.1/", "http://example.org/", "https://localhost/"])
    async def test_address_that_nobody_can_be_told_at_is_refused(self, front: Front, url: str) -> None:
        wish = {"gateway": "file", "chat_id": "folder", "notify": {"webhook_url": url}}
        assert pointers(await front.http.post("/channels", json=wish)) == ["/notify/webhook_url"]
        assert (await front.http.get("/channels")).json()["items"] == []
        fine = {**wish, "notify": {"webhook_url": "https://example.org/"}}
        assert (await front.http.post("/channels", json=fine)).status_code == 201


class TestSlots:
    async def test_overlap_is_refused_by_the_database(self, front: Front, database: Database) -> None:
        """Twenty at once: one of them gets the time."""
        channel = await connect(front, database)
        slot = {"starts_at": at(hours=1), "ends_at": at(hours=2)}
        path = f"/channels/{channel['id']}/slots"
        answers = await asyncio.gather(*(front.http.post(path, json=slot) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [201, *[422] * 19]
        refused = next(answer for answer in answers if answer.status_code == 422)
        assert pointers(refused) == ["/starts_at"]

    @pytest.mark.parametrize(
        ("slot", "pointer"),
        [
            ({"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2020-01-01T01:00:00Z"}, "/starts_at"),
            ({"starts_at": at(hours=2), "ends_at": at(hours=1)}, "/ends_at"),
            ({"starts_at": {"local": "2027-03-28T02:30:00", "time_zone": "Europe/Berlin"}, "ends_at": at(hours=9)},
             "/starts_at/local"),
            ({"starts_at": {"local": "2027-10-31T02:30:00", "time_zone": "Europe/Berlin"}, "ends_at": at(hours=9)},
             "/starts_at/local"),
            ({"starts_at": {"local": "2027-03-01T02:30:00", "time_zone": "Mars/Base"}, "ends_at": at(hours=9)},
             "/starts_at/time_zone"),
            ({"starts_at": {"local": "9999-12-31T23:59:59", "time_zone": "America/New_York"}, "ends_at": at(hours=9)},
             "/starts_at/local"),
            ({"starts_at": "9999-12-31T23:59:59-10:00", "ends_at": at(hours=9)}, "/starts_at"),
        ],
    )  # fmt: skip
    async def test_impossible_times(self, front: Front, database: Database, slot: Any, pointer: str) -> None:
        channel = await connect(front, database)
        assert pointers(await front.http.post(f"/channels/{channel['id']}/slots", json=slot)) == [pointer]

    async def test_ordered_one_is_not_withdrawn(self, front: Front, database: Database) -> None:
        slot_id = await offer(front, await connect(front, database))
        await front.http.post("/orders", json={"slot_id": slot_id, "content": {"text": "x"}})
        problem_of(await front.http.delete(f"/slots/{slot_id}"), 409)


class TestOrders:
    async def test_booked_and_shown(self, front: Front, database: Database) -> None:
        channel = await connect(front, database)
        slot_id = await offer(front, channel)
        answer = await front.http.post(
            "/orders", json={"slot_id": slot_id, "content": {"text": "x"}}, headers={"Idempotency-Key": "one"}
        )
        assert answer.status_code == 202, answer.text
        order = answer.json()
        again = await front.http.post(
            "/orders", json={"slot_id": slot_id, "content": {"text": "x"}}, headers={"Idempotency-Key": "one"}
        )
        assert (again.json()["id"], again.headers["idempotent-replayed"]) == (order["id"], "true")
        shown = (await front.http.get(f"/orders/{order['id']}")).json()
        assert (shown["state"], shown["slot_id"]) == ("booked", slot_id)
        assert shown["timeline"][0]["type"] == "job.queued"
        slots = (await front.http.get(f"/channels/{channel['id']}/slots")).json()["items"]
        assert slots[0]["order_id"] == order["id"]
        assert [one["id"] for one in (await front.http.get("/orders")).json()["items"]] == [order["id"]]

    async def test_one_of_many_gets_the_slot(self, front: Front, database: Database) -> None:
        slot_id = await offer(front, await connect(front, database))
        wish = {"slot_id": slot_id, "content": {"text": "x"}}
        answers = await asyncio.gather(*(front.http.post("/orders", json=wish) for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [202, *[422] * 9]
        assert pointers(next(answer for answer in answers if answer.status_code == 422)) == ["/slot_id"]

    @pytest.mark.parametrize(
        ("more", "pointer"),
        [
            ({"content": {"text": "x" * 4_097}}, "/content/text"),
            ({"content": {"text": "\N{GRINNING FACE}" * 2_049}}, "/content/text"),
            ({"content": {"text": "<b>x", "format": "html"}}, "/content/text"),
            ({"content": {"text": '<a href="http://a b">x</a>', "format": "html"}}, "/content/text"),
            ({"content": {"text": '<a href="https://">x</a>', "format": "html"}}, "/content/text"),
            ({"content": {"text": '<a href="https://[">x</a>', "format": "html"}}, "/content/text"),
            ({"content": {"text": "x", "buttons": [{"text": "b", "url": "https://["}]}}, "/content/buttons/0/url"),
            ({"content": {"media": [{"url": "https://[/c"}]}}, "/content/media/0/url"),
            ({"content": {"media": [{"url": "https://a.b/c"}] * 11}}, "/content/media"),
            ({"publish_at": "2020-01-01T00:00:00Z"}, "/publish_at"),
            ({"publish_at": at(hours=30)}, "/publish_at"),
            ({"advertiser": {"name": "A", "notify": {"webhook_url": "https://10.0.0.1/"}}},
             "/advertiser/notify/webhook_url"),
            ({"slot_id": "01990000-0000-7000-8000-000000000000"}, "/slot_id"),
        ],
    )  # fmt: skip
    async def test_refused_by_name_and_nothing_booked(
        self, front: Front, database: Database, more: dict[str, Any], pointer: str
    ) -> None:
        slot_id = await offer(front, await connect(front, database))
        answer = await front.http.post("/orders", json={"slot_id": slot_id, "content": {"text": "x"}, **more})
        assert pointer in pointers(answer)
        assert (await front.http.get("/orders")).json()["items"] == []

    async def test_longer_than_bots_may_delete(self, front: Front, database: Database) -> None:
        slot_id = await offer(front, await connect(front, database), lasts=72)
        wish = {"slot_id": slot_id, "content": {"text": "x"}}
        assert pointers(await front.http.post("/orders", json=wish)) == ["/finish"]
        album = {"media": [{"url": "https://example.org/a.jpg"}] * 2}
        stubbed = {**wish, "finish": "stub"}
        assert pointers(await front.http.post("/orders", json={**stubbed, "content": album})) == ["/finish"]
        assert (await front.http.post("/orders", json=stubbed)).status_code == 202

    async def test_album_that_is_overwritten_takes_the_right_to_delete(self, front: Front, database: Database) -> None:
        slot_id = await offer(front, await connect(front, database))
        async with database.tenant(front.tenant_id) as connection:
            await connection.execute(update(channels).values(rights={"can_post": True, "can_edit": True}))
        album = {"media": [{"url": "https://example.org/a.jpg"}] * 2}
        wish = {"slot_id": slot_id, "content": album, "finish": "stub"}
        assert pointers(await front.http.post("/orders", json=wish)) == ["/slot_id"]
        assert (await front.http.post("/orders", json={**wish, "content": {"text": "x"}})).status_code == 202

    async def test_more_than_the_channel_takes_in_a_minute(self, front: Front, database: Database) -> None:
        channel = await connect(front, database)
        starts = datetime.now(UTC) + timedelta(hours=1)
        codes = []
        for place in range(21):
            slot = {
                "starts_at": (starts + timedelta(seconds=place)).isoformat(),
                "ends_at": (starts + timedelta(seconds=place + 1)).isoformat(),
            }
            slot_id = (await front.http.post(f"/channels/{channel['id']}/slots", json=slot)).json()["id"]
            answer = await front.http.post("/orders", json={"slot_id": slot_id, "content": {"text": "x"}})
            codes.append(answer.status_code)
        assert codes == [*[202] * 20, 422]
        later = await offer(front, channel, starts=3)
        order = (await front.http.post("/orders", json={"slot_id": later, "content": {"text": "x"}})).json()
        answer = await front.http.patch(f"/orders/{order['id']}", json={"slot_id": slot_id})
        assert pointers(answer) == ["/publish_at"]

    async def test_an_album_is_as_many_messages_as_it_has_items(self, front: Front, database: Database) -> None:
        channel = await connect(front, database)
        starts = datetime.now(UTC) + timedelta(hours=1)
        album = {"media": [{"url": "https://example.org/a.jpg"}] * 10}
        answers = []
        for place, content in enumerate((album, album, {"text": "one too many"})):
            slot = {
                "starts_at": (starts + timedelta(seconds=place)).isoformat(),
                "ends_at": (starts + timedelta(seconds=place + 1)).isoformat(),
            }
            slot_id = (await front.http.post(f"/channels/{channel['id']}/slots", json=slot)).json()["id"]
            answers.append(await front.http.post("/orders", json={"slot_id": slot_id, "content": content}))
        assert [answer.status_code for answer in answers] == [202, 202, 422]
        assert pointers(answers[-1]) == ["/publish_at"]

    async def test_without_its_workflow_a_change_is_no_promise(self, front: Front, database: Database) -> None:
        slot_id = await offer(front, await connect(front, database))
        order = (await front.http.post("/orders", json={"slot_id": slot_id, "content": {"text": "x"}})).json()
        problem_of(await front.http.post(f"/orders/{order['id']}/cancel"), 503, "E.TEMPORAL.UNAVAILABLE")

    async def test_one_that_was_canceled_while_it_was_live_has_its_report(
        self, front: Front, database: Database
    ) -> None:
        """Its job has no result, as nobody waits for one of what he has canceled."""
        slot_id = await offer(front, await connect(front, database))
        order = (await front.http.post("/orders", json={"slot_id": slot_id, "content": {"text": "x"}})).json()
        assert order["report"] is None
        ended = datetime.now(UTC)
        gone = {"state": "removed", "sent_at": ended - timedelta(minutes=1), "ended_at": ended, "message_ids": [7]}
        async with database.tenant(front.tenant_id) as connection:
            await connection.execute(update(orders).values(gone))
            await connection.execute(update(jobs).values(status="canceled", finished_at=ended))
        report = (await front.http.get(f"/orders/{order['id']}")).json()["report"]
        assert (report["state"], report["stayed_seconds"], report["message_ids"]) == ("removed", 60, [7])


class TestNeighbours:
    async def test_see_and_touch_nothing(self, front: Front, make_front: MakeFront, database: Database) -> None:
        channel = await connect(front, database)
        slot_id = await offer(front, channel)
        order = (await front.http.post("/orders", json={"slot_id": slot_id, "content": {"text": "x"}})).json()
        other = await make_front()
        for path in (f"/channels/{channel['id']}", f"/channels/{channel['id']}/ledger", f"/orders/{order['id']}"):
            problem_of(await other.http.get(path), 404)
        wish = {"slot_id": slot_id, "content": {"text": "x"}}
        assert pointers(await other.http.post("/orders", json=wish)) == ["/slot_id"]
        problem_of(await other.http.delete(f"/slots/{slot_id}"), 404)

    async def test_scope(self, make_front: MakeFront) -> None:
        reader = await make_front(scopes=["publishing:read"])
        assert (await reader.http.get("/channels")).status_code == 200
        problem_of(await reader.http.post("/credentials", json={"name": "a", "secret": "b"}), 403)
        problem_of(await reader.http.get("/webhooks/secret"), 403)


class TestLedger:
    async def test_is_empty_at_first(self, front: Front, database: Database) -> None:
        channel = await connect(front, database)
        ledger = (await front.http.get(f"/channels/{channel['id']}/ledger")).json()
        assert (ledger["summary"]["ambiguous"], ledger["items"]) == (0, [])
        shown = await front.http.get(f"/channels/{channel['id']}")
        assert set(shown.json()["limits"]) == {"chat", "minute", "token"}
        assert TOKEN not in shown.text


class TestSequences:
    async def test_booked(self, front: Front, database: Database) -> None:
        channel = await connect(front, database)
        items = [{"offset_seconds": n * 60, "content": {"text": str(n)}} for n in (1, 0)]
        wish = {"channel_id": channel["id"], "starts_at": at(hours=1), "items": items}
        made = (await front.http.post("/sequences", json=wish)).json()
        assert [one["content"]["text"] for one in made["deliveries"]] == ["0", "1"]
        broken = {**wish, "items": [{"offset_seconds": 0, "content": {"text": "x" * 5_000}}]}
        assert pointers(await front.http.post("/sequences", json=broken)) == ["/items/0/content/text"]
        past = {**wish, "starts_at": at(hours=-1)}
        assert pointers(await front.http.post("/sequences", json=past)) == ["/starts_at"]

    async def test_more_than_the_channel_takes_in_a_minute(self, front: Front, database: Database) -> None:
        """Its items count among each other, and with what is booked already."""
        channel = await connect(front, database)
        items = [{"offset_seconds": 90 if n < 10 else 0, "content": {"text": str(n)}} for n in range(30)]
        wish = {"channel_id": channel["id"], "starts_at": at(hours=1), "items": items}
        assert (await front.http.post("/sequences", json=wish)).status_code == 202
        assert pointers(await front.http.post("/sequences", json={**wish, "items": items[9:11]})) == [
            "/items/1/offset_seconds"
        ]
        crowd = [{"offset_seconds": 600, "content": {"text": str(n)}} for n in range(21)]
        answer = await front.http.post("/sequences", json={**wish, "items": crowd})
        assert pointers(answer) == [f"/items/{n}/offset_seconds" for n in range(21)]

    async def test_refused_where_the_owner_agrees_to_each_post(self, front: Front, database: Database) -> None:
        channel = await connect(front, database)
        async with database.tenant(front.tenant_id) as connection:
            await connection.execute(update(channels).values(requires_approval=True))
        items = [{"offset_seconds": 0, "content": {"text": "x"}}]
        wish = {"channel_id": channel["id"], "starts_at": at(hours=1), "items": items}
        assert pointers(await front.http.post("/sequences", json=wish)) == ["/channel_id"]


class TestWebhooks:
    async def test_callback_is_taken_and_written_to_the_outbox(self, front: Front) -> None:
        job = await front.post(callback_url="https://example.org/hook")
        [delivery] = (await front.http.get(f"/webhooks/deliveries?job_id={job['id']}")).json()["items"]
        assert (delivery["type"], delivery["url"]) == ("job.queued", "https://example.org/hook")
        assert len((await front.http.get("/webhooks/secret")).json()["secrets"]) == 1
        await front.http.post("/webhooks/secret/rotate")
        assert len((await front.http.get("/webhooks/secret")).json()["secrets"]) == 2

    async def test_endpoints(self, front: Front) -> None:
        assert pointers(await front.http.post("/webhooks/endpoints", json={"url": "https://localhost/"})) == ["/url"]
        made = (await front.http.post("/webhooks/endpoints", json={"url": "https://example.org/"})).json()
        assert made["secret"].startswith("whsec_")
        listed = await front.http.get("/webhooks/endpoints")
        assert made["secret"] not in listed.text
        assert (await front.http.delete(f"/webhooks/endpoints/{made['id']}")).status_code == 204
        problem_of(await front.http.delete(f"/webhooks/endpoints/{made['id']}"), 404)

    async def test_incoming_needs_its_secret(self, front: Front, database: Database) -> None:
        channel = await connect(front, database)
        bot = (await front.http.post("/bots", json={"channel_id": channel["id"]})).json()
        address = f"http://longhaul/webhooks/telegram/{bot['id']}"
        problem_of(await front.http.post(address, json={"update_id": 1}), 404)
        good = {"X-Telegram-Bot-Api-Secret-Token": bot["secret_token"]}
        assert (await front.http.post(address, json={"update_id": 1}, headers=good)).status_code == 200
        message = {"update_id": 2, "message": {"chat": {"id": 5}, "text": "/book"}}
        problem_of(await front.http.post(address, json=message, headers=good), 503)
