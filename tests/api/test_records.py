"""Taking records in over HTTP, and what became of them: on a real database, without Temporal."""

import asyncio
import gzip
import json
import sys
import zlib
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import func, select

from api.app import create_app
from core.database import Database, create_database
from repositories.tables import record_batches
from tests.api.conftest import MakeFront, MakeSettings, running
from tests.api.support import Front, Serving, pointers, problem_of
from tests.support.saving import bring_home, dead_letters, lines, message, saved_messages

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdCompressor, compress
else:
    from backports.zstd import CompressionParameter, ZstdCompressor, compress

LINES = {"content-type": "application/x-ndjson"}


async def post(front: Front, body: Any, *, query: str = "", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await front.http.post(
        f"/records/messages{query}", content=content, headers={"content-type": "application/json", **named}
    )


async def counts(front: Front, answer: httpx.Response) -> dict[str, int]:
    batch = (await front.http.get(answer.json()["batch_url"])).json()
    assert batch["received"] == batch["saved"] + batch["deduplicated"] + batch["dead"] + batch["pending"]
    return {name: batch[name] for name in ("received", "saved", "deduplicated", "dead", "pending")}


class TestAcknowledgement:
    @pytest.mark.parametrize("shape", ["object", "array", "lines", "gzip", "zstd", "pretty"])
    async def test_every_shape(self, front: Front, database: Database, shape: str) -> None:
        """One endpoint for an object, an array and lines, compressed or not: what was sent is what is saved."""
        sent = [message() for _ in range(1 if shape in {"object", "pretty"} else 700)]
        bodies: dict[str, tuple[bytes, dict[str, str]]] = {
            "object": (json.dumps(sent[0]).encode(), {}),
            "pretty": (json.dumps(sent[0], indent=2).encode(), {}),
            "array": (json.dumps(sent, indent=1).encode(), {}),
            "lines": (lines(sent) + b"\n\n", LINES),
            "gzip": (gzip.compress(lines(sent[:300])) + gzip.compress(b"\n" + lines(sent[300:])),
                     {**LINES, "content-encoding": "gzip"}),
            "zstd": (compress(lines(sent[:300])) + compress(b"\n" + lines(sent[300:])),
                     {**LINES, "content-encoding": "zstd"}),
        }  # fmt: skip
        body, headers = bodies[shape]
        answer = await post(front, body, **{name.replace("-", "_"): value for name, value in headers.items()})
        assert answer.status_code == 202, answer.text
        document = answer.json()
        assert (document["received"], document["accepted"], document["rejected"]) == (len(sent), len(sent), [])
        assert answer.headers["location"] == document["batch_url"]
        assert answer.headers["retry-after"] == "1"
        assert await counts(front, answer) == {
            "received": len(sent), "saved": 0, "deduplicated": 0, "dead": 0, "pending": len(sent),
        }  # fmt: skip
        await bring_home(database, front.tenant_id)
        saved = await saved_messages(database, front.tenant_id)
        assert {key: row.content for key, row in saved.items()} == {one["id"]: one["content"] for one in sent}

    async def test_more_than_memory_holds(self, front: Front, database: Database) -> None:
        """A body of some megabytes goes by way of a file."""
        sent = [message(content="x" * 200) for _ in range(6_000)]
        answer = await post(front, lines(sent), content_type=LINES["content-type"])
        assert answer.status_code == 202
        await bring_home(database, front.tenant_id)
        assert (await counts(front, answer))["saved"] == 6_000
        assert (await saved_messages(database, front.tenant_id)).keys() == {one["id"] for one in sent}

    async def test_many_at_once_are_written_together(self, front: Front, database: Database) -> None:
        sent = [message() for _ in range(60)]
        answers = await asyncio.gather(*(post(front, one) for one in sent))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["batch_id"] for answer in answers}) == 60
        await bring_home(database, front.tenant_id)
        for answer in answers:
            assert (await counts(front, answer))["saved"] == 1

    async def test_nothing_to_save(self, front: Front) -> None:
        problem_of(await post(front, b"\n\n", content_type=LINES["content-type"]), 422, "E.REQUEST.INVALID")
        problem_of(await post(front, []), 422, "E.REQUEST.INVALID")


class TestRefusal:
    async def test_all_or_nothing(self, front: Front, database: Database) -> None:
        """By default one bad record refuses its batch, and the answer names each."""
        sent = [message(), message(tokens=-1), message(), {"id": str(uuid4())}]
        answer = await post(front, sent)
        problem_of(answer, 422, "E.SAVING.REJECTED")
        assert pointers(answer) == ["/1/tokens", "/3"]
        assert await bring_home(database, front.tenant_id) == 0
        assert await saved_messages(database, front.tenant_id) == {}

    async def test_many_bad_ones_are_counted_and_the_first_hundred_named(self, front: Front) -> None:
        answer = await post(front, [{} for _ in range(150)])
        problem = problem_of(answer, 422, "E.SAVING.REJECTED")
        assert problem["detail"].startswith("150 of 150 records")
        assert pointers(answer) == [f"/{index}" for index in range(100)]

    async def test_continue(self, front: Front, database: Database) -> None:
        """The others are taken; the bad ones are listed in their order, and kept as dead letters."""
        sent = [message(), message(tokens=-1), message(), message(content="a\x00b")]
        answer = await post(front, sent, query="?on_error=continue")
        assert answer.status_code == 202
        document = answer.json()
        assert (document["received"], document["accepted"]) == (4, 2)
        assert [(one["index"], one["code"], one["pointer"]) for one in document["rejected"]] == [
            (1, "E.RECORD.INVALID", "/tokens"), (3, "E.RECORD.TEXT", ""),
        ]  # fmt: skip
        await bring_home(database, front.tenant_id)
        assert await counts(front, answer) == {
            "received": 4, "saved": 2, "deduplicated": 0, "dead": 2, "pending": 0,
        }  # fmt: skip
        page = (await front.http.get("/records/messages/dead-letters?limit=1")).json()
        assert [letter["index"] for letter in page["items"]] == [3]
        following = f"/records/messages/dead-letters?limit=1&cursor={page['next_cursor']}"
        [letter] = (await front.http.get(following)).json()["items"]
        assert (letter["index"], letter["code"], letter["batch_id"]) == (1, "E.RECORD.INVALID", document["batch_id"])
        assert letter["message"].startswith("/tokens: ")
        refused = await front.http.post(f"/records/messages/dead-letters/{letter['id']}/retry")
        problem_of(refused, 422, "E.SAVING.REJECTED")
        assert len(await dead_letters(database, front.tenant_id)) == 2

    async def test_a_name_that_no_database_takes(self, front: Front, database: Database) -> None:
        """A NUL in the name of an unknown member: one dead letter, whose neighbour is saved."""
        sent = [message(), {"a\x00b": 1}, {"k" * 100_000: 1}]
        answer = await post(front, sent, query="?on_error=continue")
        assert answer.status_code == 202, answer.text
        assert len(answer.content) < 2_000
        await bring_home(database, front.tenant_id)
        assert [(await counts(front, answer))[name] for name in ("saved", "dead", "pending")] == [1, 2, 0]
        first, second = await dead_letters(database, front.tenant_id)
        assert (first.payload, len(second.payload)) == (json.dumps(sent[1]).encode(), 100_007)

    async def test_a_hundred_percent(self, front: Front, database: Database) -> None:
        """Nothing but poison: listed up to a thousand, every one of them kept."""
        body = b"\n".join(b"{}" for _ in range(2_500))
        answer = await post(front, body, query="?on_error=continue", content_type=LINES["content-type"])
        assert answer.status_code == 202
        assert (answer.json()["received"], answer.json()["accepted"]) == (2_500, 0)
        assert len(answer.json()["rejected"]) == 1_000
        await bring_home(database, front.tenant_id)
        assert (await counts(front, answer))["dead"] == 2_500
        assert [letter.position for letter in await dead_letters(database, front.tenant_id)] == list(range(2_500))

    @pytest.mark.parametrize(
        ("body", "headers", "status", "code"),
        [
            (b"{", {}, 400, "E.REQUEST.MALFORMED"),
            (b"[{]", {}, 400, "E.REQUEST.MALFORMED"),
            (b"{}", {"content_type": "text/csv"}, 415, "E.REQUEST.MEDIA_TYPE"),
            (b"{}", {"content_encoding": "br"}, 415, "E.REQUEST.MEDIA_TYPE"),
            (b"{}", {"content_encoding": "gzip"}, 400, "E.REQUEST.MALFORMED"),
            (b"{}", {"content_encoding": "zstd"}, 400, "E.REQUEST.MALFORMED"),
            (gzip.compress(b"{}", mtime=0)[:-4], {"content_encoding": "gzip"}, 400, "E.REQUEST.MALFORMED"),
            (compress(b"{}")[:-4], {"content_encoding": "zstd"}, 400, "E.REQUEST.MALFORMED"),
            (b" " * 1_100_000, {}, 413, "E.REQUEST.TOO_LARGE"),
        ],
        ids=["cut", "array", "csv", "br", "no gzip", "no zstd", "half gzip", "half zstd", "large"],
    )
    async def test_bad_bodies(self, front: Front, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
        problem_of(await post(front, body, **headers), status, code)

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    async def test_a_bomb(self, front: Front, encoding: str) -> None:
        """A gigabyte of blanks in a few kilobytes is refused long before it is inflated."""
        blanks = b"\n" * 40_000_000
        bomb = zlib.compress(blanks, 9, wbits=31) if encoding == "gzip" else compress(blanks)
        answer = await post(front, bomb, content_type=LINES["content-type"], content_encoding=encoding)
        problem_of(answer, 413, "E.REQUEST.TOO_LARGE")

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    async def test_empty_members(self, front: Front, encoding: str) -> None:
        """Thousands of members, or frames, with nothing in them before the one that holds the record."""
        pack = gzip.compress if encoding == "gzip" else compress
        body = pack(b"") * 3_000 + pack(lines([message()]))
        answer = await post(front, body, content_type=LINES["content-type"], content_encoding=encoding)
        assert answer.status_code == 202, answer.text
        assert answer.json()["received"] == 1

    @pytest.mark.parametrize(("window_log", "status"), [(23, 202), (24, 400), (27, 400)])
    async def test_a_window_that_would_fill_the_memory(self, front: Front, window_log: int, status: int) -> None:
        """A frame of some bytes may ask its reader for 128 MiB; over HTTP it gets the 8 of RFC 9659."""
        packing = ZstdCompressor(options={CompressionParameter.window_log: window_log})
        # In two parts: of what is known to be small the frame asks for no more than that.
        body = packing.compress(lines([message()])) + packing.flush()
        answer = await post(front, body, content_type=LINES["content-type"], content_encoding="zstd")
        assert answer.status_code == status, answer.text
        if status == 400:
            assert "at most 8 MiB" in problem_of(answer, 400, "E.REQUEST.MALFORMED")["detail"]

    async def test_no_such_collection(self, front: Front) -> None:
        answer = await front.http.post("/records/secrets", json={})
        problem_of(answer, 404, "E.NOT_FOUND")
        problem_of(await front.http.get(f"/records/secrets/batches/{uuid4()}"), 404, "E.NOT_FOUND")

    async def test_scopes(self, make_front: MakeFront) -> None:
        reader = await make_front(scopes=["records:read"])
        problem_of(await post(reader, message()), 403, "E.AUTH.SCOPE")
        writer = await make_front(of=reader, scopes=["records:write"])
        answer = await post(writer, message())
        assert answer.status_code == 202
        problem_of(await writer.http.get(answer.json()["batch_url"]), 403, "E.AUTH.SCOPE")

    async def test_nobody_else_sees_it(self, front: Front, other: Front, database: Database) -> None:
        answer = await post(front, [message(), {}], query="?on_error=continue")
        problem_of(await other.http.get(answer.json()["batch_url"]), 404, "E.NOT_FOUND")
        await bring_home(database, front.tenant_id)
        assert (await other.http.get("/records/messages/dead-letters")).json()["items"] == []
        assert (await other.http.get("/records/messages/dialogs?user_id=keeper")).json()["items"] == []
        [letter] = await dead_letters(database, front.tenant_id)
        problem_of(await other.http.post(f"/records/messages/dead-letters/{letter.id}/retry"), 404, "E.NOT_FOUND")


class TestIdempotency:
    async def test_five_at_once_are_one(self, front: Front, database: Database) -> None:
        """The same body under the same key, small or large: one batch, five equal answers."""
        for size in (3, 4_000):
            body = lines([message(content="x" * 150) for _ in range(size)])
            key = str(uuid4())
            answers = await asyncio.gather(
                *(post(front, body, content_type=LINES["content-type"], idempotency_key=key) for _ in range(5))
            )
            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.text for answer in answers}) == 1
            assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", *["true"] * 4]
            await bring_home(database, front.tenant_id)
            assert await counts(front, answers[0]) == {
                "received": size, "saved": size, "deduplicated": 0, "dead": 0, "pending": 0,
            }  # fmt: skip

    async def test_another_body(self, front: Front, other: Front) -> None:
        await post(front, message(), idempotency_key="k")
        problem_of(await post(front, message(), idempotency_key="k"), 422, "E.IDEMPOTENCY.MISMATCH")
        assert (await post(other, message(), idempotency_key="k")).status_code == 202


class TestBackPressure:
    @pytest.mark.parametrize(
        "limit",
        [{"saving_inbox_max_records": 1}, {"saving_inbox_max_bytes": 1_024}, {"saving_inbox_max_age_seconds": 1}],
    )
    async def test_over_the_limit(
        self, make_settings: MakeSettings, make_front: MakeFront, database: Database, limit: dict[str, int]
    ) -> None:
        """Too many, too large or too old: 429 with the time to come again, until there is room."""
        async with running(create_app(make_settings(**limit))) as app:
            front = await make_front(on=app)
            backlog = app.state.services.intake._backlog
            await self._refuses(front)
            await bring_home(database, front.tenant_id)
            backlog.records = backlog.bytes = 0
            backlog.age_seconds = 0.0
            assert (await post(front, message())).status_code == 202
            await bring_home(database, front.tenant_id)

    async def _refuses(self, front: Front) -> None:
        for _ in range(200):
            answer = await post(front, message(content="x" * 1_024))
            if answer.status_code == 429:
                problem_of(answer, 429, "E.SAVING.BACKLOG")
                assert int(answer.headers["retry-after"]) >= 1
                return
            await asyncio.sleep(0.02)
        raise AssertionError("never refused")

    async def test_the_database_is_away(self, make_front: MakeFront, make_settings: MakeSettings) -> None:
        async with running(create_app(make_settings())) as app:
            front = await make_front(on=app)
            await front.http.get(f"/records/messages/batches/{uuid4()}")  # the key is known from here on
            services = app.state.services
            engine = services.database.engine
            await engine.dispose()
            services.database.engine = _away()
            try:
                answer = await post(front, message())
            finally:
                services.database.engine = engine
            problem_of(answer, 503, "E.DB.UNAVAILABLE")
            assert "retry-after" in answer.headers


def _away() -> Any:
    url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    return create_database(url, pool_size=1, statement_timeout_seconds=1, application_name="away").engine


class TestHalfABody:
    async def test_a_client_that_stops_in_the_middle(self, served: Serving, make_front: MakeFront) -> None:
        """Half a body is nothing: no batch, no record, and the next request is served."""
        front = await make_front(on=served.url)
        body = lines([message() for _ in range(3_000)])
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        head = (
            "POST /api/v1/records/messages HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {front.key}\r\ncontent-type: application/x-ndjson\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body[: len(body) // 2])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        del reader
        answer = await post(front, message())
        assert answer.status_code == 202
        async with served.app.state.services.database.tenant(front.tenant_id) as connection:
            assert (await connection.execute(select(func.count()).select_from(record_batches))).scalar_one() == 1


class TestReading:
    @pytest.fixture
    async def full(self, front: Front, database: Database) -> Front:
        """A few dialogs of two users over three days."""
        sent = [
            message(
                dialog_id=f"d{number % 3}", user_id=f"u{number % 2}", role="user" if number % 2 else "assistant",
                model="m1" if number % 3 else "m2", tokens=number, status="done", processing_ms=number * 10,
                created_at=f"2026-11-{10 + number % 3}T10:00:{number:02}Z",
            )
            for number in range(30)
        ]  # fmt: skip
        await post(front, sent)
        users = [
            {"id": "u0", "version": 1, "premium": True, "last_active_at": "2026-11-12T00:00:00Z"},
            {"id": "u1", "version": 1, "last_active_at": "2026-11-13T00:00:00Z"},
            {"id": "u2", "version": 1, "premium": True, "blocked": True, "last_active_at": "2026-11-14T00:00:00Z"},
            {"id": "u3", "version": 1, "blocked": True},
        ]
        assert (await front.http.post("/records/users", json=users)).status_code == 202
        await bring_home(database, front.tenant_id)
        await bring_home(database, front.tenant_id, "users")
        return front

    async def ask(self, front: Front, path: str) -> list[dict[str, Any]]:
        answer = await front.http.get(f"/records/{path}")
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def test_latest_dialogs(self, full: Front) -> None:
        items = await self.ask(full, "messages/dialogs?user_id=u1&limit=2")
        assert [(one["dialog_id"], one["last_message_at"]) for one in items] == [
            ("d2", "2026-11-12T10:00:29Z"), ("d1", "2026-11-11T10:00:25Z"),
        ]  # fmt: skip

    async def test_messages_by_cursor(self, full: Front) -> None:
        """Every message once, newest first."""
        seen: list[str] = []
        path = "/records/messages/dialogs/d1?limit=4"
        cursor = ""
        while cursor is not None:
            page = (await full.http.get(path + (f"&cursor={cursor}" if cursor else ""))).json()
            seen += [one["created_at"] for one in page["items"]]
            cursor = page["next_cursor"]
        assert len(seen) == 10
        assert seen == sorted(seen, reverse=True)
        problem_of(await full.http.get(f"{path}&cursor=AAAA"), 422, "E.REQUEST.INVALID")

    @pytest.mark.parametrize(
        "dialog_id", ["support/2026/17", "/", "a b?c#d%2F", "slowest", "one\ntwo/three\n", "x" * 128]
    )
    async def test_messages_of_a_dialog_by_any_name(self, front: Front, database: Database, dialog_id: str) -> None:
        """What may be saved may be read: the id is the sender's, with slashes and line breaks."""
        sent = message(dialog_id=dialog_id)
        await post(front, sent)
        await bring_home(database, front.tenant_id)
        assert [one["id"] for one in await self.ask(front, f"messages/dialogs/{quote(dialog_id, safe='')}")] == [
            sent["id"]
        ]

    @pytest.mark.parametrize("dialog_id", ["", "none/at/all", "x" * 129, "a\x00b"])
    async def test_no_such_dialog(self, front: Front, dialog_id: str) -> None:
        answer = await front.http.get(f"/records/messages/dialogs/{quote(dialog_id, safe='')}")
        problem_of(answer, 404, "E.NOT_FOUND")

    @pytest.mark.parametrize(
        ("path", "parameter"),
        [
            ("messages/dialogs", "user_id"), ("messages/dialogs/d1", "cursor"), ("messages/slowest", "status"),
            ("messages/statistics/users", "user_id"), ("messages/statistics/models", "model"),
            ("messages/dead-letters", "cursor"), ("users/blocked", "cursor"),
        ],
    )  # fmt: skip
    async def test_what_no_database_can_be_asked_for(self, front: Front, path: str, parameter: str) -> None:
        answer = await front.http.get(f"/records/{path}?{parameter}=a%00b")
        assert pointers(answer) == [f"/query/{parameter}"]

    async def test_statistics(self, full: Front) -> None:
        days = await self.ask(full, "messages/statistics/daily?since=2026-11-11&until=2026-11-12")
        assert [(day["day"], day["messages"], day["users"]) for day in days] == [
            ("2026-11-12", 10, 2), ("2026-11-11", 10, 2),
        ]  # fmt: skip
        assert sum(day["tokens"] for day in days) == sum(number for number in range(30) if number % 3)
        period = "since=2026-11-01&until=2026-11-30"
        users = await self.ask(full, f"messages/statistics/users?{period}")
        assert [(user["user_id"], user["tokens"]) for user in users] == [("u1", 225), ("u0", 210)]
        [one] = await self.ask(full, f"messages/statistics/users?{period}&user_id=u0")
        assert (one["user_id"], one["tokens"]) == ("u0", 210)
        models = await self.ask(full, f"messages/statistics/models?{period}")
        assert [(model["model"], model["messages"]) for model in models] == [("m1", 20), ("m2", 10)]
        assert len(await self.ask(full, f"messages/statistics/models?{period}&model=m2")) == 1
        wide = await full.http.get("/records/messages/statistics/daily?since=2020-01-01&until=2026-01-01")
        problem_of(wide, 422, "E.REQUEST.INVALID")

    @pytest.mark.parametrize(
        ("query", "parameter"),
        [
            ("since=9999-12-31", "since"), ("until=9999-12-31", "until"), ("until=0001-01-05", "until"),
            ("since=9999-11-30", None), ("until=9999-11-30", None), ("until=0001-02-01", None),
        ],
    )  # fmt: skip
    async def test_the_ends_of_the_calendar(self, front: Front, query: str, parameter: str | None) -> None:
        """A day from which thirty days would pass an end is refused by name, and is no fault of ours."""
        for name in ("daily", "users", "models"):
            answer = await front.http.get(f"/records/messages/statistics/{name}?{query}")
            if parameter is None:
                assert (answer.status_code, answer.json()["items"]) == (200, [])
            else:
                assert pointers(answer) == [f"/query/{parameter}"]

    async def test_slowest(self, full: Front) -> None:
        items = await self.ask(full, "messages/slowest?status=done&limit=2")
        assert [one["processing_ms"] for one in items] == [290, 280]

    async def test_users(self, full: Front) -> None:
        assert [user["id"] for user in await self.ask(full, "users/active")] == ["u2", "u1", "u0"]
        assert [user["id"] for user in await self.ask(full, "users/active?premium=true")] == ["u0"]
        assert [user["id"] for user in await self.ask(full, "users/blocked")] == ["u2", "u3"]
        page = (await full.http.get("/records/users/blocked?limit=1")).json()
        assert page["next_cursor"] == "u2"
        assert [user["id"] for user in await self.ask(full, "users/blocked?cursor=u2")] == ["u3"]
