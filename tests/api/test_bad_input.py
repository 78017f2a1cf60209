"""Bad input: each a problem that names the field, quickly, and nothing is stored."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.database import Database
from tests.api.support import NOOP, Front, count_jobs, pointers, problem_of

COURSE: dict[str, Any] = {
    "topic": "Queues",
    "sources": [{"name": "a.md", "text": "# Queues\n\nA queue keeps work in order until somebody does it."}],
}


def course(**changes: Any) -> dict[str, Any]:
    return {"kind": "generation.course", "input": {**COURSE, **changes}}


def at(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


@pytest.fixture(autouse=True)
async def nothing_stored(front: Front, database: Database) -> AsyncIterator[None]:
    """Whatever was refused left nothing behind."""
    yield
    assert await count_jobs(database, front.tenant_id) == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"kind": "no.such"}, "/kind"),
        ({"kind": 7}, "/kind"),
        ({"input": {}}, "/kind"),
        ({**NOOP, "colour": "red"}, "/colour"),
        ({**NOOP, "input": {"x": 1}}, "/input/x"),
        ({**NOOP, "input": []}, "/input"),
        ({**NOOP, "priority": 0}, "/priority"),
        ({**NOOP, "priority": "3"}, "/priority"),
        ({**NOOP, "priority": True}, "/priority"),
        ({**NOOP, "labels": {"bad name": "x"}}, "/labels/bad name"),
        ({**NOOP, "labels": {"x": 1}}, "/labels/x"),
        ({**NOOP, "labels": {"longhaul.run": "schedule/x"}}, "/labels"),
        ({**NOOP, "labels": {"x": "y" * 256}}, "/labels/x"),
        ({**NOOP, "labels": {str(n): "x" for n in range(21)}}, "/labels"),
        ({**NOOP, "start_at": at(hours=-1)}, "/start_at"),
        ({**NOOP, "start_at": at(days=400)}, "/start_at"),
        ({**NOOP, "start_at": "2099-01-01T00:00:00"}, "/start_at"),
        ({**NOOP, "start_at": "2026-13-01T00:00:00Z"}, "/start_at"),
        ({**NOOP, "start_at": "2026-12-01T00:00:00+99:00"}, "/start_at"),
        ({**NOOP, "start_at": "tomorrow"}, "/start_at"),
        ({**NOOP, "start_at": 4102444800}, "/start_at"),
        ({**NOOP, "start_at": "4102444800"}, "/start_at"),
        ({**NOOP, "start_at": "0001-01-01T00:00:00+23:59"}, "/start_at"),
        ({**NOOP, "callback_url": "https://10.0.0.1/hook"}, "/callback_url"),
        (course(topic=""), "/input/topic"),
        (course(topic="a\x00b"), "/input/topic"),
        (course(topic="a\nb"), "/input/topic"),
        (course(modules="three"), "/input/modules"),
        (course(modules=10**30), "/input/modules"),
        (course(provider="openai", modules=50, lessons_per_module=4), "/input/modules"),
        (course(budget_usd=-1), "/input/budget_usd"),
        (course(language="klingonese"), "/input/language"),
        (course(sources=[{"name": "a.md", "text": ""}]), "/input/sources/0/text"),
        (course(sources=[{"name": "a.md", "text": " \n "}]), "/input/sources/0/text"),
        (course(sources=[]), "/input/sources"),
        (course(sources=[{"artifact_id": "0199a000-0000-7000-8000-000000000000"}]), "/input/sources/0/artifact_id"),
        (course(exports=["pdf"]), "/input/exports/0"),
        ([], ""),
        ("text", ""),
        (None, ""),
    ],
)
async def test_names_the_field(front: Front, body: Any, pointer: str) -> None:
    assert pointer in pointers(await front.http.post("/jobs", json=body))


async def test_missing_body_is_refused(front: Front) -> None:
    assert pointers(await front.http.post("/jobs")) == [""]


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        (b'{"kind": "diagnostics.noop", "labels": {"x": "a\\u0000b"}}', "/labels/x"),
        (b'{"kind": "diagnostics.noop", "labels": {"x": "\\ud800"}}', "/labels/x"),
        (b'{"kind": "diagnostics.noop", "labels": {"a\\udfff": "x"}}', "/labels"),
        (b'{"kind": "generation.course", "input": {"topic": "\\udc00"}}', "/input/topic"),
    ],
)
async def test_text_that_cannot_be_stored_is_named(front: Front, raw: bytes, pointer: str) -> None:
    headers = {"Content-Type": "application/json"}
    assert pointers(await front.http.post("/jobs", content=raw, headers=headers)) == [pointer]


@pytest.mark.parametrize(
    "raw",
    [
        b"{", b"{]", b"\xff\xfe", b'{"kind": "a", "kind": "b"}', b'{"input": {"x": NaN}}', b'{"input": Infinity}',
        b'{"input": 1e999}', b'{"input": ' + b"9" * 100_000 + b"}", b"\xef\xbb\xbf{}", b"{} {}",
    ],
)  # fmt: skip
async def test_what_is_no_json_is_400(front: Front, raw: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    problem_of(await front.http.post("/jobs", content=raw, headers=headers), 400, "E.REQUEST.MALFORMED")


@pytest.mark.parametrize("levels", [101, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
async def test_deep_nesting_is_refused_quickly(front: Front, levels: int, opening: bytes, closing: bytes) -> None:
    raw = opening * levels + b"1" + closing * levels
    started = time.perf_counter()
    answer = await front.http.post("/jobs", content=raw, headers={"Content-Type": "application/json"})
    problem_of(answer, 400, "E.REQUEST.MALFORMED")
    assert "levels deep" in answer.json()["detail"]
    assert time.perf_counter() - started < 1


async def test_hundred_levels_are_fine(front: Front) -> None:
    raw = b'{"kind": "no.such", "input": ' + b'{"a":' * 98 + b"1" + b"}" * 99
    assert pointers(await front.http.post("/jobs", content=raw, headers={"Content-Type": "application/json"})) == [
        "/kind"
    ]


async def test_ten_megabytes_are_413(front: Front) -> None:
    raw = b'{"kind": "' + b"a" * 10_000_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    problem_of(await front.http.post("/jobs", content=raw, headers=headers), 413, "E.REQUEST.TOO_LARGE")

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), 65_536):
            yield raw[start : start + 65_536]

    problem_of(await front.http.post("/jobs", content=chunks(), headers=headers), 413, "E.REQUEST.TOO_LARGE")


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "", "application/json; charset=latin-1"])
async def test_other_media_types_are_415(front: Front, content_type: str) -> None:
    answer = await front.http.post("/jobs", content=b"{}", headers={"Content-Type": content_type})
    problem_of(answer, 415, "E.REQUEST.MEDIA_TYPE")


@pytest.mark.parametrize("content_type", ["application/json; charset=UTF-8", "application/vnd.longhaul+json"])
async def test_spellings_of_json_are_understood(front: Front, content_type: str) -> None:
    answer = await front.http.post("/jobs", content=b'{"kind": "x"}', headers={"Content-Type": content_type})
    assert pointers(answer) == ["/kind"]


async def test_compressed_bodies_are_415(front: Front) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    problem_of(await front.http.post("/jobs", content=b"x", headers=headers), 415, "E.REQUEST.MEDIA_TYPE")


async def test_binary_file_named_md_is_no_source(front: Front) -> None:
    headers = {"Content-Disposition": 'attachment; filename="a.md"', "Content-Type": "text/markdown"}
    artifact = (await front.http.post("/artifacts", content=bytes(range(256)) * 8, headers=headers)).json()
    answer = await front.http.post("/jobs", json=course(sources=[{"artifact_id": artifact["id"]}]))
    assert pointers(answer) == ["/input/sources/0/artifact_id"]


async def test_no_value_is_repeated(front: Front) -> None:
    """Problems name the field and the rule, never what was sent."""
    canary = "canary-4711"
    for body in ({"kind": canary}, {**NOOP, "priority": canary}, course(language=canary), course(level=canary)):
        assert canary not in (await front.http.post("/jobs", json=body)).text
