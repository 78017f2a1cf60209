"""Keys at the door: who comes in, how fast a revoked key is out, and what one tenant sees of another."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import event

from api.app import create_app
from core.database import Database
from services.tenants import Scope, TenantService
from tests.api.conftest import MakeFront, MakeSettings, running
from tests.api.support import NOOP, Front, client_of, problem_of
from tests.api.test_approvals import waiting_course
from tests.api.test_federated import digest as content_digest
from tests.api.test_federated import enrol, make_model
from tests.api.test_media import add_render
from tests.api.test_publishing import at, connect, offer
from tests.api.test_schedules import make as make_schedule
from tests.support.course_trees import add_course
from tests.support.round_rows import add_open_round
from tests.support.saving import bring_home, dead_letters, message
from tests.support.waiting import eventually

_PUBLIC = {
    "/webhooks/telegram/{bot_id}",
    "/webhooks/heygen",
    "/healthz",
    "/readyz",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/docs/oauth2-redirect",
}


def calls(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path template that the application serves."""
    return [
        (method, route.path_format)
        for route in iter_route_contexts(app.routes)
        for method in sorted(route.methods or ())
        if route.path_format is not None
    ]


class TestWhoComesIn:
    @pytest.mark.parametrize(
        "authorization",
        [
            None, "", "Bearer", "Bearer ", "Basic abc", "Bearer nonsense", "Bearer lh_short_x",
            f"Bearer lh_{'a' * 12}_{'b' * 43}", f"Bearer lh_{'a' * 12}_{'b' * 100000}", "Bearer \xe9",
        ],
    )  # fmt: skip
    async def test_everything_that_is_no_key_gets_the_same_answer(
        self, app: FastAPI, authorization: str | None
    ) -> None:
        headers = {} if authorization is None else {b"Authorization": authorization.encode("latin-1")}
        async with client_of(app, None) as http:
            answer = await http.get("/jobs", headers=headers)
        problem = problem_of(answer, 401, "E.AUTH.INVALID")
        assert problem["detail"] == "the API key is missing, unknown, expired or revoked"
        assert answer.headers["www-authenticate"].startswith("Bearer")

    async def test_right_prefix_with_a_wrong_secret_is_refused_also_from_memory(self, front: Front) -> None:
        wrong = front.key[:-4] + ("AAAA" if not front.key.endswith("AAAA") else "BBBB")
        for _ in range(2):
            headers = {"Authorization": f"Bearer {wrong}"}
            problem_of(await front.http.get("/jobs", headers=headers), 401, "E.AUTH.INVALID")
            assert (await front.http.get("/jobs")).status_code == 200

    async def test_no_route_without_a_key(self, app: FastAPI) -> None:
        """Every route that is not public answers 401 to a stranger, and says in OpenAPI what it needs."""
        found = calls(app)
        assert len(found) > 15
        async with client_of(app, None) as http:
            for method, path in found:
                if path in _PUBLIC:
                    continue
                url = path.replace("{job_id}", str(uuid4())).replace("{artifact_id}", str(uuid4()))
                answer = await http.request(method, f"http://longhaul{url}")
                assert answer.status_code == 401, (method, path)
        document = app.openapi()
        for path, operations in document["paths"].items():
            for operation in operations.values():
                assert (path in _PUBLIC) != ("security" in operation), path

    async def test_unknown_paths_tell_a_stranger_nothing(self, app: FastAPI) -> None:
        async with client_of(app, None) as http:
            problem_of(await http.get("/no/such"), 401)

    async def test_expired_key_is_refused(self, make_front: MakeFront) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=0.5)
        front = await make_front(expires_at=soon)
        assert (await front.http.get("/jobs")).status_code == 200
        await asyncio.sleep(0.6)
        problem_of(await front.http.get("/jobs"), 401)


class TestScopes:
    async def test_wrong_scope_is_403(self, make_front: MakeFront) -> None:
        front = await make_front(scopes=[Scope.JOBS_READ])
        assert (await front.http.get("/jobs")).status_code == 200
        problem = problem_of(await front.http.post("/jobs", json=NOOP), 403, "E.AUTH.SCOPE")
        assert "jobs:write" in problem["detail"]
        problem_of(await front.http.post("/artifacts", content=b"x"), 403, "E.AUTH.SCOPE")
        problem_of(await front.http.get(f"/artifacts/{uuid4()}"), 403, "E.AUTH.SCOPE")

    async def test_every_route_needs_one(self, app: FastAPI, make_front: MakeFront) -> None:
        """A key with one scope is refused by every route that is of another."""
        by_scope = {scope: await make_front(scopes=[scope]) for scope in Scope}
        for method, path in calls(app):
            if path in _PUBLIC:
                continue
            url = "http://longhaul" + path.replace("{job_id}", str(uuid4())).replace("{artifact_id}", str(uuid4()))
            allowed = [
                scope for scope, front in by_scope.items() if (await front.http.request(method, url)).status_code != 403
            ]
            assert len(allowed) == 1, (method, path, allowed)


class TestRevocation:
    async def test_takes_less_than_a_second(self, front: Front, tenants: TenantService) -> None:
        assert (await front.http.get("/jobs")).status_code == 200
        await tenants.revoke_key(front.prefix)

        async def status() -> int:
            return (await front.http.get("/jobs")).status_code

        await eventually(status, lambda code: code == 401, within=1.0)

    async def test_other_keys_of_the_tenant_stay_good(
        self, front: Front, tenants: TenantService, make_front: MakeFront
    ) -> None:
        second = await make_front(of=front)
        await tenants.revoke_key(front.prefix)
        assert (await second.http.get("/jobs")).status_code == 200
        await eventually(lambda: front.http.get("/jobs"), lambda answer: answer.status_code == 401, within=1.0)

    async def test_verified_keys_cost_no_look_at_the_database(self, app: FastAPI, front: Front) -> None:
        await front.http.get("/jobs")
        looks = _count_statements(app.state.services.database, "api_keys")
        with looks as seen:
            await front.http.get("/jobs")
        # That the key was used is written down beside the first request, and on a busy machine after it.
        assert [statement for statement in seen if not statement.startswith("UPDATE api_keys SET last_used_at")] == []

    async def test_deaf_process_trusts_no_memory(
        self, make_settings: MakeSettings, tenants: TenantService, make_front: MakeFront
    ) -> None:
        """While the LISTEN connection is down, a revoked key is refused at once all the same."""
        async with running(create_app(make_settings())) as app:
            front = await make_front(on=app)
            assert (await front.http.get("/jobs")).status_code == 200
            authenticator = app.state.services.authenticator
            authenticator._is_told = lambda: False
            authenticator.forget = lambda _prefix: None
            await tenants.revoke_key(front.prefix)
            problem_of(await front.http.get("/jobs"), 401)

    async def test_use_is_written_down_at_most_once_a_minute(self, front: Front, tenants: TenantService) -> None:
        await front.http.get("/jobs")

        async def used() -> Any:
            return (await tenants.list_keys(front.tenant_id))[0].last_used_at

        first = await eventually(used)
        await front.http.get("/jobs")
        await asyncio.sleep(0.1)
        assert await used() == first


_SEEN: Final = {"If-Match": f'"{"0" * 64}"'}
_SENT: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("GET", "/jobs/{job_id}/events"): {"headers": {"Accept": "application/json"}},
    ("PUT", "/jobs/{job_id}/outline"): {
        "headers": _SEEN,
        "json": {
            "title": "t", "description": "d",
            "modules": [
                {"title": "m", "summary": "s", "lessons": [{"title": "l", "objectives": ["o"], "section_ids": []}]}
            ],
        },
    },
    ("GET", "/courses/{course_id}/diff"): {"params": {"from": "1", "to": "2"}},
    ("POST", "/courses/{course_id}/mix"): {"json": {"base": 1, "take": [{"node": "lesson-1.1", "from": 2}]}},
    ("POST", "/courses/{course_id}/rollback"): {"json": {"version": 1}},
    ("PUT", "/courses/{course_id}/nodes/{node}"): {
        "headers": _SEEN,
        "json": {
            "title": "t", "summary": "s", "key_points": ["k"], "terms": [],
            "blocks": [{"heading": "h", "paragraphs": ["p"], "bullets": []}],
        },
    },
    ("PATCH", "/schedules/{schedule_id}"): {"json": {"priority": 1}},
    ("POST", "/schedules/{schedule_id}/backfill"): {
        "json": {"start_at": "2026-01-01T00:00:00Z", "end_at": "2026-01-02T00:00:00Z"}
    },
    ("PATCH", "/credentials/{credential_id}"): {"json": {"secret": "another"}},
    ("POST", "/channels/{channel_id}/slots"): {"json": {"starts_at": at(days=2), "ends_at": at(days=3)}},
    ("PATCH", "/orders/{order_id}"): {"json": {"content": {"text": "y"}}},
    ("POST", "/orders/{order_id}/resolve"): {"json": {"decision": "give_up"}},
    ("POST", "/renders/{render_id}/resolve"): {"json": {"decision": "wait"}},
    ("POST", "/federated/models/{name}/predict"): {"json": {"samples": [{}]}},
    ("PUT", "/federated/updates/{lease_id}"): {"content": b"x", "headers": content_digest(b"x")},
}  # fmt: skip
"""What calls have to carry in order to come as far as the question whose things they are about."""


async def things_of(
    front: Front, app: FastAPI, database: Database, make_front: MakeFront
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """One real thing for each id that is part of a path; and the jobs that some paths mean, by how these begin."""
    job = await waiting_course(app, database, front)
    artifact = (await front.http.post("/artifacts", content=b"mine")).json()
    sent = [message(dialog_id="mine"), {}]
    batch = (await front.http.post("/records/messages?on_error=continue", json=sent)).json()["batch_id"]
    await bring_home(database, front.tenant_id)
    [letter] = await dead_letters(database, front.tenant_id)
    course = await add_course(database, app.state.services.store, front.tenant_id)
    for text in ("The moon pulls.", "The sun pulls as well."):
        await course.write_lesson(1, f"Moon: {text}")
        await course.freeze()
    channel = await connect(front, database)
    slot_id = await offer(front, channel)
    order = (await front.http.post("/orders", json={"slot_id": slot_id, "content": {"text": "x"}})).json()
    items = [{"offset_seconds": 0, "content": {"text": "x"}}]
    wish = {"channel_id": channel["id"], "starts_at": at(hours=3), "items": items}
    sequence = (await front.http.post("/sequences", json=wish)).json()
    endpoint = (await front.http.post("/webhooks/endpoints", json={"url": "https://example.org/"})).json()
    called_back = await front.post(callback_url="https://example.org/hook")
    deliveries = (await front.http.get(f"/webhooks/deliveries?job_id={called_back['id']}")).json()["items"]
    model = await make_model(front)
    cycle_id = await add_open_round(database, front.tenant_id, model=model["name"], goal=1)
    async with await enrol(front, make_front, app) as device:
        lease = (await device.post("/federated/leases")).json()
    ids = {
        "job_id": str(job.job_id),
        "artifact_id": artifact["id"],
        "collection": "messages",
        "batch_id": batch,
        "letter_id": str(letter.id),
        "dialog_id": "mine",
        "course_id": str(course.id),
        "node": "lesson-1.1",
        "number": "1",
        "schedule_id": (await make_schedule(front))["id"],
        "credential_id": channel["credential_id"],
        "channel_id": channel["id"],
        "slot_id": slot_id,
        "order_id": order["id"],
        "render_id": str(await add_render(database, front.tenant_id, state="stuck")),
        "endpoint_id": endpoint["id"],
        "delivery_id": deliveries[0]["id"],
        "name": model["name"],
        "lease_id": lease["id"],
        "sha256": lease["base_sha256"],
    }
    jobs = {"/federated/cycles/": {"job_id": str(cycle_id)}, "/sequences/": {"job_id": sequence["id"]}}
    return ids, jobs


class TestOtherTenants:
    async def test_every_id_of_somebody_else_is_404(
        self, app: FastAPI, front: Front, other: Front, database: Database, make_front: MakeFront
    ) -> None:
        """Each route with an id in it, with the ids of another tenant's real things: they are there for their owner."""
        ids, jobs = await things_of(front, app, database, make_front)
        found = [(method, path.removeprefix("/api/v1")) for method, path in calls(app) if path not in _PUBLIC]
        with_id = [(method, path) for method, path in found if "{" in path.replace("{collection}", "")]
        assert len(with_id) >= 55
        assert set(_SENT) <= set(with_id)
        # What is deleted by its owner is there for nobody, so that comes last.
        for method, path in sorted(with_id, key=lambda call: call[0] == "DELETE"):
            meant = next((more for start, more in jobs.items() if path.startswith(start)), {})
            url = path.format_map(ids | meant)
            carried = _SENT.get((method, path), {})
            refused = await other.http.request(method, url, **carried)
            assert refused.status_code == 404, (method, path, refused.text)
            if method != "HEAD":
                problem_of(refused, 404, "E.NOT_FOUND")
            served = await front.http.request(method, url, **carried)
            assert served.status_code not in {404, 500}, (method, path, served.text)
        assert (await other.http.get(f"/jobs/{ids['job_id']}/events")).status_code == 404

    async def test_lists_hold_only_ones_own(self, front: Front, other: Front) -> None:
        await front.post(labels={"x": "1"})
        assert (await other.http.get("/jobs")).json()["items"] == []
        assert (await other.http.get("/jobs?label.x=1")).json()["items"] == []

    async def test_somebody_elses_artifact_is_no_source(self, front: Front, other: Front) -> None:
        artifact = (await front.http.post("/artifacts", content=b"# mine\n\nSome text of mine.")).json()
        wish = {"topic": "t", "sources": [{"artifact_id": artifact["id"]}]}
        answer = await other.http.post("/jobs", json={"kind": "generation.course", "input": wish})
        assert [fault["pointer"] for fault in problem_of(answer, 422)["errors"]] == ["/input/sources/0/artifact_id"]


class TestRateLimit:
    async def test_too_many_requests_are_told_when_to_come_back(
        self, make_settings: MakeSettings, make_front: MakeFront
    ) -> None:
        async with running(create_app(make_settings(rate_limit="3/minute"))) as app:
            front, other = await make_front(on=app), await make_front(on=app)
            answers = [await front.http.get("/jobs") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert answers[0].headers["ratelimit-policy"] == '"default";q=3;w=60'
            assert answers[0].headers["ratelimit"].startswith('"default";r=2;t=')
            problem = problem_of(answers[3], 429, "E.RATE.LIMITED")
            assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
            assert problem["violated-policies"] == ["default"]
            left = int(answers[3].headers["ratelimit"].rpartition("t=")[2])
            assert 1 <= left <= int(answers[3].headers["retry-after"]) <= 60
            assert (await other.http.get("/jobs")).status_code == 200

    async def test_guessing_keys_is_limited_by_address(self, make_settings: MakeSettings) -> None:
        async with running(create_app(make_settings(rate_limit="3/minute"))) as app, client_of(app, None) as http:
            answers: list[httpx.Response] = [await http.get("/jobs") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [401, 401, 401, 429]


class _count_statements:  # noqa: N801 - used like a function
    """The statements on a database, inside the block, that name a table."""

    def __init__(self, database: Database, table: str) -> None:
        self._engine = database.engine.sync_engine
        self._table = table
        self._seen: list[str] = []

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if self._table in statement:
            self._seen.append(statement)

    def __enter__(self) -> list[str]:
        event.listen(self._engine, "before_cursor_execute", self._note)
        return self._seen

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._note)
