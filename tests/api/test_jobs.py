"""Starting, reading, listing and steering jobs."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import func, insert, update

from api.schemas import JobBatchDocument, JobDocument, JobPage
from core.database import Database
from core.ids import new_id
from domain.errors import DatabaseUnavailable
from repositories.tables import jobs, workers
from tests.api.support import NOOP, Front, count_jobs, pointers, problem_of, record


class TestStart:
    async def test_answers_202_with_the_document_and_where_to_look(self, front: Front) -> None:
        answer = await front.http.post("/jobs", json={**NOOP, "priority": 2, "labels": {"team": "docs"}})
        job = answer.json()
        assert answer.status_code == 202
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["location"] == job["links"]["self"]
        assert answer.headers["etag"] in {'"1"', '"1-w"'}
        assert job["status"] == "queued"
        assert job["labels"] == {"team": "docs"}
        assert job["request_id"] == answer.headers["x-request-id"]

    async def test_document_has_exactly_the_promised_members(self, front: Front) -> None:
        job = await front.post()
        assert list(job) == [
            "id", "kind", "status", "progress", "steps", "waiting_on", "result_url", "error_code", "error", "cost",
            "attempt", "labels", "created_at", "started_at", "finished_at", "updated_at", "request_id", "links",
        ]  # fmt: skip
        assert list(job["links"]) == ["self", "events", "result", "temporal_ui"]
        assert job["cost"] == {"usd": "0", "input_tokens": 0, "output_tokens": 0}
        assert job["created_at"].endswith("Z")
        assert job["links"]["temporal_ui"].endswith(f"/workflows/diagnostics.noop%2F{job['id']}")
        JobDocument.model_validate(job)

    async def test_booked_job_waits_for_its_time(self, front: Front) -> None:
        start = datetime.now(UTC) + timedelta(hours=1)
        job = await front.post(start_at=start.isoformat())
        assert job["waiting_on"]["kind"] == "timer"
        assert datetime.fromisoformat(job["waiting_on"]["until"]) == start

    async def test_is_stored_although_temporal_is_away(self, front: Front, database: Database) -> None:
        await front.post()
        assert await count_jobs(database, front.tenant_id) == 1


class TestIdempotency:
    async def test_same_key_and_body_give_the_same_job(self, front: Front) -> None:
        first = await front.http.post("/jobs", json=NOOP, headers={"Idempotency-Key": '"a"'})
        again = await front.http.post("/jobs", json=NOOP, headers={"Idempotency-Key": "a"})
        assert (first.json()["id"], again.status_code) == (again.json()["id"], 202)
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"

    async def test_fifty_at_once_make_one_job(self, front: Front, database: Database) -> None:
        answers = await asyncio.gather(
            *(front.http.post("/jobs", json=NOOP, headers={"Idempotency-Key": "storm"}) for _ in range(50))
        )
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" in answer.headers for answer in answers) == 49
        assert await count_jobs(database, front.tenant_id) == 1

    async def test_same_key_with_another_body_is_refused(self, front: Front, database: Database) -> None:
        await front.http.post("/jobs", json=NOOP, headers={"Idempotency-Key": "a"})
        answer = await front.http.post("/jobs", json={**NOOP, "priority": 1}, headers={"Idempotency-Key": "a"})
        problem_of(answer, 422, "E.IDEMPOTENCY.MISMATCH")
        assert await count_jobs(database, front.tenant_id) == 1

    async def test_same_key_of_two_tenants_is_two_keys(self, front: Front, other: Front) -> None:
        one = await front.http.post("/jobs", json=NOOP, headers={"Idempotency-Key": "a"})
        two = await other.http.post("/jobs", json={**NOOP, "priority": 1}, headers={"Idempotency-Key": "a"})
        assert (one.status_code, two.status_code) == (202, 202)
        assert one.json()["id"] != two.json()["id"]

    @pytest.mark.parametrize("key", ['""', "", "a b", '"a', "x" * 256, '"\\a"', '"é"'])
    async def test_bad_keys_are_refused(self, front: Front, key: str) -> None:
        headers = {b"Idempotency-Key": key.encode()}
        problem_of(await front.http.post("/jobs", json=NOOP, headers=headers), 400, "E.IDEMPOTENCY.KEY")

    async def test_escapes_and_255_characters_are_fine(self, front: Front) -> None:
        for key in ('"a\\"b\\\\c"', "x" * 255):
            assert (await front.http.post("/jobs", json=NOOP, headers={"Idempotency-Key": key})).status_code == 202


class TestBatch:
    async def test_each_item_has_an_outcome_in_order(self, front: Front, database: Database) -> None:
        items = [NOOP, {"kind": "no.such"}, {**NOOP, "priority": 9}, 7, {**NOOP, "labels": {"n": "4"}}]
        answer = await front.http.post("/jobs:batch", json={"jobs": items})
        assert answer.status_code == 207
        found = answer.json()["items"]
        assert [item["status"] for item in found] == [202, 422, 422, 422, 202]
        assert [fault["pointer"] for fault in found[1]["problem"]["errors"]] == ["/kind"]
        assert [fault["pointer"] for fault in found[2]["problem"]["errors"]] == ["/priority"]
        assert found[4]["job"]["labels"] == {"n": "4"}
        JobBatchDocument.model_validate(answer.json())
        assert await count_jobs(database, front.tenant_id) == 2

    async def test_key_covers_each_item(self, front: Front, database: Database) -> None:
        headers = {"Idempotency-Key": "batch"}
        first = (await front.http.post("/jobs:batch", json={"jobs": [NOOP, NOOP]}, headers=headers)).json()
        again = (await front.http.post("/jobs:batch", json={"jobs": [NOOP, NOOP, NOOP]}, headers=headers)).json()
        assert [item["job"]["id"] for item in first["items"]] == [item["job"]["id"] for item in again["items"]][:2]
        assert [item.get("replayed") for item in again["items"]] == [True, True, None]
        assert await count_jobs(database, front.tenant_id) == 3

    @pytest.mark.parametrize("items", [[], [dict(NOOP)] * 101])
    async def test_size_is_bounded(self, front: Front, items: list[Any]) -> None:
        assert pointers(await front.http.post("/jobs:batch", json={"jobs": items})) == ["/jobs"]


class TestRead:
    async def test_unchanged_is_304(self, front: Front) -> None:
        job = await front.post()
        first = await front.http.get(f"/jobs/{job['id']}")
        etag = first.headers["etag"]
        for given in (etag, f'W/{etag}, "x"', "*"):
            again = await front.http.get(f"/jobs/{job['id']}", headers={"If-None-Match": given})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert first.headers["cache-control"] == "private, no-cache"

    async def test_changed_is_200(self, front: Front, database: Database) -> None:
        job = await front.post()
        etag = (await front.http.get(f"/jobs/{job['id']}")).headers["etag"]
        await record(database, front.tenant_id, job["id"], "running")
        again = await front.http.get(f"/jobs/{job['id']}", headers={"If-None-Match": etag})
        assert (again.status_code, again.json()["status"]) == (200, "running")

    async def test_wait_answers_when_the_job_changes(self, front: Front, database: Database) -> None:
        job = await front.post()
        etag = (await front.http.get(f"/jobs/{job['id']}")).headers["etag"]
        headers = {"If-None-Match": etag}
        waiting = asyncio.create_task(front.http.get(f"/jobs/{job['id']}?wait=10", headers=headers))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await record(database, front.tenant_id, job["id"], "running")
        async with asyncio.timeout(2):
            answer = await waiting
        assert (answer.status_code, answer.json()["status"]) == (200, "running")

    async def test_wait_without_an_etag_is_for_a_change_from_now(self, front: Front, database: Database) -> None:
        job = await front.post()
        waiting = asyncio.create_task(front.http.get(f"/jobs/{job['id']}?wait=10"))
        await asyncio.sleep(0.2)
        await record(database, front.tenant_id, job["id"], "running")
        async with asyncio.timeout(2):
            assert (await waiting).json()["status"] == "running"

    async def test_wait_that_ends_for_nothing_is_304(self, front: Front) -> None:
        job = await front.post()
        etag = (await front.http.get(f"/jobs/{job['id']}")).headers["etag"]
        answer = await front.http.get(f"/jobs/{job['id']}?wait=0.2", headers={"If-None-Match": etag})
        assert answer.status_code == 304

    async def test_wait_for_a_finished_job_is_over_at_once(self, front: Front, database: Database) -> None:
        job = await front.post()
        await record(database, front.tenant_id, job["id"], "succeeded")
        async with asyncio.timeout(2):
            answer = await front.http.get(f"/jobs/{job['id']}?wait=30")
        assert answer.json()["status"] == "succeeded"

    async def test_says_when_no_worker_is_there(self, front: Front, app: Any, database: Database) -> None:
        """The document and its ETag tell of a missing worker, without an event of the job."""
        job = await front.post()
        served = app.state.services.served
        await served.refresh()
        without = await front.http.get(f"/jobs/{job['id']}")
        assert without.headers["etag"] == '"1-w"'
        assert without.json()["waiting_on"]["kind"] == "worker"
        headers = {"If-None-Match": '"1-w"'}
        waiting = asyncio.create_task(front.http.get(f"/jobs/{job['id']}?wait=10", headers=headers))
        await asyncio.sleep(0.1)
        worker = new_id()
        async with database.system() as connection:
            row = {"id": worker, "task_queues": ["diagnostics"], "code_version": "0"}
            await connection.execute(insert(workers).values(row))
        try:
            await served.refresh()
            async with asyncio.timeout(2):
                answer = await waiting
            assert (answer.headers["etag"], answer.json()["waiting_on"]) == ('"1"', None)
        finally:
            async with database.system() as connection:
                await connection.execute(
                    update(workers).where(workers.c.id == worker).values(seen_at=func.now() - timedelta(hours=1))
                )
            await served.refresh()

    @pytest.mark.parametrize("job_id", ["01890000-0000-7000-8000-000000000000", "nonsense", "0"])
    async def test_unknown_is_404(self, front: Front, job_id: str) -> None:
        problem_of(await front.http.get(f"/jobs/{job_id}"), 404, "E.NOT_FOUND")
        problem_of(await front.http.get(f"/jobs/{job_id}?wait=1"), 404, "E.NOT_FOUND")


class TestList:
    async def test_pages_newest_first_without_gap_or_repeat(self, front: Front) -> None:
        made = [(await front.post())["id"] for _ in range(5)]
        seen: list[str] = []
        cursor = ""
        while True:
            page = (await front.http.get(f"/jobs?limit=2{cursor}")).json()
            JobPage.model_validate(page)
            seen += [job["id"] for job in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert seen == made[::-1]

    async def test_filters(self, front: Front, database: Database) -> None:
        docs = await front.post(labels={"team": "docs", "x": "1"})
        await front.post(labels={"team": "web"})
        await record(database, front.tenant_id, docs["id"], "succeeded")

        async def found(**query: str) -> list[str]:
            return [job["id"] for job in (await front.http.get("/jobs", params=query)).json()["items"]]

        assert await found(**{"label.team": "docs", "label.x": "1"}) == [docs["id"]]
        assert await found(**{"label.team": "none"}) == []
        assert await found(status="succeeded") == [docs["id"]]
        assert await found(kind="no.such") == []
        assert len(await found(created_after="2020-01-01T00:00:00Z")) == 2
        assert await found(created_before="2020-01-01T00:00:00Z") == []

    @pytest.mark.parametrize(
        ("query", "pointer"),
        [
            ("limit=0", "/query/limit"), ("limit=201", "/query/limit"), ("limit=x", "/query/limit"),
            ("cursor=???", "/query/cursor"), ("cursor=AAAA", "/query/cursor"), ("status=nope", "/query/status"),
            ("created_after=2020-01-01T00:00:00", "/query/created_after"), ("colour=red", "/query/colour"),
            ("limit=1&limit=2", "/query/limit"), ("label.bad name=x", "/query/label.bad name"),
            ("label.x=%00", "/query/label.x"), ("kind=a%00b", "/query/kind"),
        ],
    )  # fmt: skip
    async def test_bad_queries_are_named(self, front: Front, query: str, pointer: str) -> None:
        assert pointers(await front.http.get(f"/jobs?{query}")) == [pointer]


class TestActions:
    async def test_cancel_of_a_queued_job_is_final_and_may_be_repeated_never(self, front: Front) -> None:
        job = await front.post()
        answer = await front.http.post(f"/jobs/{job['id']}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "canceled")
        assert answer.headers["location"] == job["links"]["self"]
        problem_of(await front.http.post(f"/jobs/{job['id']}/cancel"), 409, "E.JOB.STATE")

    async def test_pause_resume_retry(self, front: Front) -> None:
        path = f"/jobs/{(await front.post())['id']}"
        problem_of(await front.http.post(f"{path}/resume"), 409, "E.JOB.STATE")
        assert (await front.http.post(f"{path}/pause")).json()["waiting_on"]["kind"] == "paused"
        assert (await front.http.post(f"{path}/resume")).status_code == 202
        problem_of(await front.http.post(f"{path}/retry"), 409, "E.JOB.STATE")
        await front.http.post(f"{path}/cancel")
        assert (await front.http.post(f"{path}/retry")).json()["attempt"] == 2

    @pytest.mark.parametrize("action", ["approve", "reject"])
    async def test_decisions_need_something_to_decide(self, front: Front, action: str) -> None:
        path = f"/jobs/{(await front.post())['id']}/{action}"
        problem_of(await front.http.post(path), 409, "E.JOB.STATE")
        problem_of(await front.http.post(path, json={"comment": "no"}), 409, "E.JOB.STATE")
        assert pointers(await front.http.post(path, json={"comment": 3})) == ["/comment"]
        assert pointers(await front.http.post(path, json={"why": "no"})) == ["/why"]

    @pytest.mark.parametrize("action", ["approve", "reject"])
    async def test_decision_is_taken_where_one_is_awaited(self, front: Front, database: Database, action: str) -> None:
        job = await front.post()
        waiting = {"kind": "approval", "detail": "d", "since": "2026-01-01T00:00:00Z"}
        async with database.tenant(front.tenant_id) as connection:
            await connection.execute(
                update(jobs).where(jobs.c.id == UUID(job["id"])).values(status="running", waiting_on=waiting)
            )
        answer = await front.http.post(f"/jobs/{job['id']}/{action}", json={"comment": "so be it"})
        assert (answer.status_code, answer.json()["waiting_on"]) == (202, None) or answer.json()["waiting_on"][
            "kind"
        ] == "worker"


class TestResult:
    async def test_unfinished_is_409(self, front: Front) -> None:
        job = await front.post()
        problem_of(await front.http.get(f"/jobs/{job['id']}/result"), 409, "E.JOB.NOT_FINISHED")

    async def test_succeeded_gives_the_result(self, front: Front, database: Database) -> None:
        job = await front.post()
        await record(database, front.tenant_id, job["id"], "succeeded")
        async with database.tenant(front.tenant_id) as connection:
            await connection.execute(update(jobs).where(jobs.c.id == UUID(job["id"])).values(result={"lessons": 3}))
        answer = await front.http.get(f"/jobs/{job['id']}/result")
        assert (answer.status_code, answer.json()) == (200, {"lessons": 3})
        document = (await front.http.get(f"/jobs/{job['id']}")).json()
        assert document["result_url"] == document["links"]["result"] == f"{job['links']['self']}/result"

    async def test_failed_says_why(self, front: Front, database: Database) -> None:
        job = await front.post()
        await record(database, front.tenant_id, job["id"], "failed")
        async with database.tenant(front.tenant_id) as connection:
            error = {"detail": "the budget is used up", "code": "E.BUDGET.EXCEEDED"}
            values = {"error": error, "error_code": "E.BUDGET.EXCEEDED"}
            await connection.execute(update(jobs).where(jobs.c.id == UUID(job["id"])).values(values))
        problem = problem_of(await front.http.get(f"/jobs/{job['id']}/result"), 409, "E.JOB.STATE")
        assert "the budget is used up" in problem["detail"]


async def test_unreachable_database_is_503(front: Front, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that finds no database says so and when to come back, and tells nothing else."""

    async def away(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("the database cannot be reached or is overloaded")

    monkeypatch.setattr(type(app.state.services.database), "read", away)
    answer: httpx.Response = await front.http.get(f"/jobs/{uuid4()}")
    problem_of(answer, 503, "E.DB.UNAVAILABLE")
    assert int(answer.headers["retry-after"]) >= 1
