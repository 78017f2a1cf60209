"""``GET /costs`` as a front end calls it."""

from decimal import Decimal

import pytest
from sqlalchemy import insert

from core.database import Database
from repositories.tables import provider_calls
from tests.api.conftest import MakeFront
from tests.api.support import Front, pointers, problem_of
from tests.support.job_rows import add_running_job


async def add_calls(database: Database, front: Front, *steps: str) -> str:
    """Paid calls of a new course, made just now; the course's id."""
    job = await add_running_job(database, front.tenant_id)
    rows = [
        {
            "tenant_id": job.tenant_id, "job_id": job.job_id, "op": step, "step": step, "provider": "openai",
            "model": "m", "state": "done", "reserved_usd": Decimal("0.5"), "settled_usd": Decimal("0.25"),
            "input_tokens": 7, "output_tokens": 2,
        }
        for step in steps
    ]  # fmt: skip
    async with database.tenant(front.tenant_id) as connection:
        await connection.execute(insert(provider_calls), rows)
    return str(job.job_id)


async def test_what_was_spent_lately(front: Front, database: Database) -> None:
    course = await add_calls(database, front, "outline", "lesson-1.1")
    answer = (await front.http.get("/costs")).json()
    assert answer["group_by"] == "day"
    (day,) = answer["items"]
    assert day["key"] == answer["end"][:10]
    assert answer["total"] == {key: value for key, value in day.items() if key != "key"}
    assert answer["total"] == {
        "calls": 2, "sends": 2, "estimated_usd": "1", "reserved_usd": "0", "settled_usd": "0.5", "lost_usd": "0",
        "input_tokens": 14, "output_tokens": 4,
    }  # fmt: skip
    by_course = (await front.http.get("/costs", params={"group_by": "course", "course_id": course})).json()
    assert [item["key"] for item in by_course["items"]] == [course]


async def test_page_by_page(front: Front, database: Database) -> None:
    await add_calls(database, front, *(f"lesson-1.{number}" for number in range(5)))
    keys: list[str] = []
    query = {"group_by": "step", "limit": "2"}
    while True:
        page = (await front.http.get("/costs", params=query)).json()
        assert page["total"]["calls"] == 5
        keys += [item["key"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert keys == [f"lesson-1.{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("group_by=colour", "/query/group_by"), ("limit=0", "/query/limit"), ("limit=1001", "/query/limit"),
        ("cursor=???", "/query/cursor"), ("cursor=AAAA", "/query/cursor"), ("cursor=_w", "/query/cursor"),
        ("from=2026-01-01T00:00:00", "/query/from"), ("from=2020-01-01T00:00:00Z", "/query/from"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "/query/to"), ("course_id=x", "/query/course_id"),
        ("start=2026-01-01T00:00:00Z", "/query/start"),
    ],
)  # fmt: skip
async def test_bad_queries_are_named(front: Front, query: str, pointer: str) -> None:
    assert pointers(await front.http.get(f"/costs?{query}")) == [pointer]


async def test_needs_the_scope_of_reading_jobs(front: Front, make_front: MakeFront) -> None:
    weak = await make_front(of=front, scopes=["artifacts:read"])
    problem_of(await weak.http.get("/costs"), 403, "E.AUTH.SCOPE")
