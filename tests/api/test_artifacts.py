"""Uploading and downloading, over a real socket."""

import hashlib
import os
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from core.database import Database
from core.ids import new_id
from repositories.tables import artifacts
from tests.api.conftest import MakeFront
from tests.api.support import Front, Serving, count_artifacts, problem_of


@pytest.fixture
async def live(make_front: MakeFront, served: Serving) -> Front:
    """A front end of a new tenant, over a socket."""
    return await make_front(on=served.url)


async def upload(front: Front, body: bytes, name: str = "a.md") -> dict[str, object]:
    disposition = f'attachment; filename="{name}"'.encode()
    headers = {b"Content-Type": b"text/markdown", b"Content-Disposition": disposition}
    answer = await front.http.post("/artifacts", content=body, headers=headers)
    assert answer.status_code == 201, answer.text
    found: dict[str, object] = answer.json()
    return found


class TestUpload:
    async def test_same_bytes_give_the_same_digest(self, live: Front, other: Front) -> None:
        body = os.urandom(300_000)
        one, two, three = await upload(live, body), await upload(live, body, "b.md"), await upload(other, body)
        assert one["sha256"] == two["sha256"] == three["sha256"] == hashlib.sha256(body).hexdigest()
        assert one["id"] != two["id"]
        assert list(one) == ["id", "name", "media_type", "bytes", "sha256", "url"]
        assert (one["bytes"], one["media_type"], one["name"]) == (300_000, "text/markdown", "a.md")

    async def test_chunks_of_unknown_length(self, live: Front) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 10_000

        answer = await live.http.post("/artifacts", content=chunks())
        assert (answer.status_code, answer.json()["bytes"]) == (201, 1_000_000)
        assert answer.json()["media_type"] == "application/octet-stream"
        assert answer.headers["location"] == answer.json()["url"]

    async def test_larger_than_a_document_may_be(self, live: Front) -> None:
        assert (await upload(live, b"x" * 4_194_304))["bytes"] == 4_194_304

    async def test_too_large_is_413_and_leaves_nothing(self, live: Front, database: Database, scratch: object) -> None:
        body = b"x" * 4_194_305

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 65_536):
                yield body[start : start + 65_536]

        problem_of(await live.http.post("/artifacts", content=body), 413, "E.REQUEST.TOO_LARGE")
        problem_of(await live.http.post("/artifacts", content=chunks()), 413, "E.REQUEST.TOO_LARGE")
        assert await count_artifacts(database, live.tenant_id) == 0

    async def test_empty_body_is_an_empty_artifact(self, live: Front) -> None:
        found = await upload(live, b"")
        answer = await live.http.get(f"/artifacts/{found['id']}")
        assert (found["bytes"], answer.status_code, answer.content) == (0, 200, b"")

    @pytest.mark.parametrize(
        ("disposition", "name"),
        [
            (b'attachment; filename="a b.md"', "a b.md"),
            (b"attachment; filename=a.md", "a.md"),
            (b"attachment; filename=\"x\"; filename*=UTF-8''%D0%B0.md", "\u0430.md"),
            (b"attachment; filename*=utf-8'ru'%D0%B0.md", "\u0430.md"),
            (b"attachment; filename*=ISO-8859-1''%E9.md", "\u00e9.md"),
            (b"attachment; filename*=UTF-8''%ff", "upload"),
            ('attachment; filename="\u0430.md"'.encode(), "\u0430.md"),
            (b'attachment; filename="a\\"b.md"', 'a"b.md'),
            (b'attachment; filename="../../etc/passwd"', "passwd"),
            (b'attachment; filename="C:\\\\dir\\\\a.md"', "a.md"),
            (b'attachment; filename=".."', "upload"),
            (b'attachment; filename=""', "upload"),
            (b"attachment", "upload"),
            (b"form-data; name=x", "upload"),
            ('attachment; filename="a\u202egnp.md"'.encode(), "agnp.md"),
            (b'attachment; filename="' + b"a" * 300 + b'"', "a" * 200),
        ],
    )
    async def test_names_are_made_harmless(self, live: Front, disposition: bytes, name: str) -> None:
        answer = await live.http.post("/artifacts", content=b"x", headers={b"Content-Disposition": disposition})
        assert answer.json()["name"] == name

    @pytest.mark.parametrize("content_type", ["text", "a/b/c", "text/html; <script>", "x" * 300 + "/y"])
    async def test_strange_media_types_are_415(self, live: Front, content_type: str) -> None:
        answer = await live.http.post("/artifacts", content=b"x", headers={"Content-Type": content_type})
        problem_of(answer, 415, "E.REQUEST.MEDIA_TYPE")


class TestDownload:
    async def test_whole(self, live: Front) -> None:
        body = os.urandom(3_000_000)
        found = await upload(live, body, "\u0430 b.html")
        answer = await live.http.get(f"/artifacts/{found['id']}")
        assert answer.content == body
        assert answer.headers["etag"] == f'"{found["sha256"]}"'
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["x-content-type-options"] == "nosniff"
        disposition = answer.headers["content-disposition"]
        assert disposition == "attachment; filename=\"_ b.html\"; filename*=UTF-8''%D0%B0%20b.html"

    async def test_resumed_in_parts_it_is_the_same(self, live: Front) -> None:
        body = os.urandom(2_500_000)
        found = await upload(live, body)
        etag, got = f'"{found["sha256"]}"', b""
        while len(got) < len(body):
            last = min(len(got) + 999_999, len(body) - 1)
            headers = {"Range": f"bytes={len(got)}-{last}", "If-Range": etag}
            part = await live.http.get(f"/artifacts/{found['id']}", headers=headers)
            assert part.status_code == 206
            assert part.headers["content-range"] == f"bytes {len(got)}-{last}/{len(body)}"
            got += part.content
        assert hashlib.sha256(got).hexdigest() == found["sha256"]

    @pytest.mark.parametrize(
        ("asked", "status", "content"),
        [
            ("bytes=0-0", 206, b"0"), ("bytes=8-", 206, b"89"), ("bytes=-3", 206, b"789"),
            ("bytes=-99", 206, b"0123456789"),
            ("bytes=5-99", 206, b"56789"), ("bytes=5-4", 200, b"0123456789"), ("bytes=0-1,3-4", 200, b"0123456789"),
            ("lines=1-2", 200, b"0123456789"), ("bytes=-", 200, b"0123456789"), ("bytes=x", 200, b"0123456789"),
        ],
    )  # fmt: skip
    async def test_ranges(self, live: Front, asked: str, status: int, content: bytes) -> None:
        found = await upload(live, b"0123456789")
        answer = await live.http.get(f"/artifacts/{found['id']}", headers={"Range": asked})
        assert (answer.status_code, answer.content) == (status, content)

    @pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=999999999999-"])
    async def test_ranges_outside_are_416(self, live: Front, asked: str) -> None:
        found = await upload(live, b"0123456789")
        answer = await live.http.get(f"/artifacts/{found['id']}", headers={"Range": asked})
        problem_of(answer, 416, "E.ARTIFACT.RANGE")
        assert answer.headers["content-range"] == "bytes */10"

    async def test_changed_if_range_gives_all(self, live: Front) -> None:
        found = await upload(live, b"0123456789")
        headers = {"Range": "bytes=1-2", "If-Range": '"other"'}
        answer = await live.http.get(f"/artifacts/{found['id']}", headers=headers)
        assert (answer.status_code, answer.content) == (200, b"0123456789")

    async def test_unchanged_is_304(self, live: Front) -> None:
        found = await upload(live, b"0123456789")
        answer = await live.http.get(
            f"/artifacts/{found['id']}", headers={"If-None-Match": f'"{found["sha256"]}"', "Range": "bytes=0-1"}
        )
        assert (answer.status_code, answer.content) == (304, b"")

    async def test_head_tells_without_bytes(self, live: Front) -> None:
        found = await upload(live, b"0123456789")
        answer = await live.http.head(f"/artifacts/{found['id']}")
        assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "10")

    async def test_bytes_that_are_gone_are_404(self, live: Front, database: Database) -> None:
        row = {
            "id": new_id(), "tenant_id": live.tenant_id, "name": "a", "media_type": "a/b", "bytes": 5,
            "sha256": "0" * 64, "role": "upload",
        }  # fmt: skip
        async with database.tenant(live.tenant_id) as connection:
            await connection.execute(insert(artifacts).values(row))
        problem_of(await live.http.get(f"/artifacts/{row['id']}"), 404, "E.NOT_FOUND")

    async def test_unknown_is_404(self, live: Front) -> None:
        for name in (uuid4(), "x"):
            problem_of(await live.http.get(f"/artifacts/{name}"), 404, "E.NOT_FOUND")


class TestOfJob:
    async def test_lists_what_is_to_be_seen_with_the_whole_name(self, live: Front, database: Database) -> None:
        job = await live.post()
        rows = [
            {
                "id": new_id(), "tenant_id": live.tenant_id, "job_id": UUID(job["id"]), "name": name,
                "media_type": "application/json", "bytes": 5, "sha256": "0" * 64, "role": role,
            }
            for name, role in (("lessons/01-01.json", "partial"), ("plan", "internal"), ("course.json", "export"))
        ]  # fmt: skip
        async with database.tenant(live.tenant_id) as connection:
            await connection.execute(insert(artifacts), rows)
        page = (await live.http.get(f"/jobs/{job['id']}/artifacts?limit=1")).json()
        assert [item["name"] for item in page["items"]] == ["course.json"]
        rest = (await live.http.get(f"/jobs/{job['id']}/artifacts?cursor={page['next_cursor']}")).json()
        assert [item["name"] for item in rest["items"]] == ["lessons/01-01.json"]
        head = await live.http.head(f"/artifacts/{rest['items'][0]['id']}")
        assert head.headers["content-disposition"] == 'attachment; filename="01-01.json"'

    async def test_unknown_job_is_404(self, live: Front) -> None:
        problem_of(await live.http.get(f"/jobs/{uuid4()}/artifacts"), 404, "E.NOT_FOUND")
