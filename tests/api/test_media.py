"""Renders over HTTP, and the webhooks of their provider: early, twice, forged, stale, late, unknown."""

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, insert, update

from api.app import create_app
from core.database import Database
from core.ids import new_id
from domain.errors import TemporalUnavailable
from repositories.tables import video_renders
from services.media import MediaService
from tests.api.conftest import MakeFront, MakeSettings, running
from tests.api.support import Front, problem_of
from tests.support.life import add_job

SECRET = "a canary of a webhook secret"
HOOK = "http://longhaul/webhooks/heygen"


class Bell:
    """Remembers who was rung for."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str, tuple[Any, ...]]] = []
        self.is_over = False
        self.is_away = False

    async def signal(self, workflow_id: str, name: str, *arguments: Any) -> bool:
        if self.is_away:
            raise TemporalUnavailable("away")
        self.rung.append((workflow_id, name, arguments))
        return not self.is_over


async def add_render(database: Database, tenant_id: UUID, *, state: str = "rendering") -> UUID:
    job = await add_job(database, tenant_id, kind="generation.course")
    render_id = new_id()
    values = {
        "id": render_id, "tenant_id": tenant_id, "job_id": job.job_id, "attempt": 1, "part": "lesson-1.1/video",
        "digest": "d", "generation": 1, "op": str(render_id), "provider": "heygen", "engine": "avatar_iv",
        "state": state, "workflow_id": f"w/{render_id}", "key": "k", "title": "t", "body": "{}", "script_seconds": 1.0,
        "reserved_usd": 1, "video_id": render_id.hex,
    }  # fmt: skip
    async with database.tenant(tenant_id) as connection:
        await connection.execute(insert(video_renders).values(values))
    return render_id


async def set_state(database: Database, tenant_id: UUID, render_id: UUID, state: str) -> None:
    async with database.tenant(tenant_id) as connection:
        await connection.execute(update(video_renders).where(video_renders.c.id == render_id).values(state=state))


def hook(
    callback_id: Any = None, *, video_id: Any = None, more: str = "", event: str = "avatar_video.success"
) -> bytes:
    data = {"video_id": video_id, "callback_id": None if callback_id is None else str(callback_id), "more": more}
    return json.dumps({"event_type": event, "event_data": data}).encode()


def signed(body: bytes, *, name: str = "Heygen-Signature", age: float = 0, secret: str = SECRET) -> dict[str, str]:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {name: signature, "Heygen-Timestamp": str(int(time.time() - age)), "content-type": "application/json"}


@pytest.fixture
async def bell(make_settings: MakeSettings, database: Database) -> AsyncIterator[tuple[Bell, httpx.AsyncClient, Any]]:
    """An application whose workflows are a bell, and a client of it without a key."""
    ringing = Bell()
    async with running(create_app(make_settings())) as app:
        service = MediaService(database, ringing, webhook_secret=SECRET)
        object.__setattr__(app.state.services, "media", service)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport) as http:
            yield ringing, http, app


Served = tuple[Bell, httpx.AsyncClient, Any]


class TestWebhooks:
    @pytest.mark.parametrize("name", ["Heygen-Signature", "Signature", "heygen-signature"])
    async def test_a_signed_one_wakes_once(self, bell: Served, database: Database, tenant_id: UUID, name: str) -> None:
        ringing, http, _ = bell
        render_id = await add_render(database, tenant_id)
        body = hook(render_id)
        answers = [await http.post(HOOK, content=body, headers=signed(body, name=name)) for _ in range(3)]
        assert [answer.json() for answer in answers] == [{"woken": True}, {"woken": False}, {"woken": False}]
        assert ringing.rung == [(f"w/{render_id}", "provider_spoke", ())]

    async def test_it_is_found_by_the_video_too(self, bell: Served, database: Database, tenant_id: UUID) -> None:
        ringing, http, _ = bell
        render_id = await add_render(database, tenant_id)
        body = hook(video_id=render_id.hex)
        assert (await http.post(HOOK, content=body, headers=signed(body))).json() == {"woken": True}
        assert len(ringing.rung) == 1

    @pytest.mark.parametrize(
        "headers",
        [
            lambda body: signed(body, secret="another"),
            lambda body: signed(body + b" "),
            lambda body: signed(body, age=400),
            lambda body: signed(body, age=-400),
            lambda body: {**signed(body), "Heygen-Timestamp": "yesterday"},
            lambda _body: {"Signature": "\u00e9".encode("latin-1").decode("latin-1")},
        ],
    )
    async def test_forged_and_stale_ones_are_refused(
        self, bell: Served, database: Database, tenant_id: UUID, headers: Any
    ) -> None:
        ringing, http, _ = bell
        body = hook(await add_render(database, tenant_id))
        shown = [(name.encode(), value.encode("latin-1")) for name, value in headers(body).items()]
        problem_of(await http.post(HOOK, content=body, headers=shown), 401, "E.AUTH.INVALID")
        assert ringing.rung == []

    async def test_unsigned_ones_only_wake_and_not_often(
        self, bell: Served, database: Database, tenant_id: UUID
    ) -> None:
        ringing, http, app = bell
        object.__setattr__(app.state.services, "media", MediaService(database, ringing, webhook_secret=None))
        render_id = await add_render(database, tenant_id)
        answers = [(await http.post(HOOK, content=hook(render_id, more=str(n)))).json()["woken"] for n in range(5)]
        assert answers == [True, False, False, False, False]
        assert len(ringing.rung) == 1

    @pytest.mark.parametrize(("state", "woken"), [("rendering", True), ("stuck", False)])
    async def test_unsigned_ones_hardly_wake_one_that_is_stuck(
        self, bell: Served, database: Database, tenant_id: UUID, state: str, *, woken: bool
    ) -> None:
        ringing, http, app = bell
        object.__setattr__(app.state.services, "media", MediaService(database, ringing, webhook_secret=None))
        render_id = await add_render(database, tenant_id, state=state)
        a_minute_ago = func.clock_timestamp() - timedelta(minutes=1)
        async with database.tenant(tenant_id) as connection:
            row = update(video_renders).where(video_renders.c.id == render_id)
            await connection.execute(row.values(woken_at=a_minute_ago))
        assert (await http.post(HOOK, content=hook(render_id))).json() == {"woken": woken}

    async def test_unsigned_ones_are_ignored_where_they_are_to_be_signed(
        self, bell: Served, database: Database, tenant_id: UUID
    ) -> None:
        ringing, http, _ = bell
        body = hook(await add_render(database, tenant_id))
        answer = await http.post(HOOK, content=body)
        assert (answer.status_code, answer.json(), ringing.rung) == (200, {"woken": False}, [])
        assert (await http.post(HOOK, content=body, headers=signed(body))).json() == {"woken": True}

    @pytest.mark.parametrize("state", ["done", "failed", "abandoned", "replaced"])
    async def test_late_ones_are_harmless(self, bell: Served, database: Database, tenant_id: UUID, state: str) -> None:
        ringing, http, _ = bell
        body = hook(await add_render(database, tenant_id, state=state))
        assert (await http.post(HOOK, content=body, headers=signed(body))).json() == {"woken": False}
        assert ringing.rung == []

    async def test_one_whose_workflow_is_gone(self, bell: Served, database: Database, tenant_id: UUID) -> None:
        ringing, http, _ = bell
        ringing.is_over = True
        body = hook(await add_render(database, tenant_id))
        assert (await http.post(HOOK, content=body, headers=signed(body))).json() == {"woken": False}

    async def test_one_that_nobody_can_be_told_is_sent_again(
        self, bell: Served, database: Database, tenant_id: UUID
    ) -> None:
        ringing, http, _ = bell
        ringing.is_away = True
        body = hook(await add_render(database, tenant_id))
        problem_of(await http.post(HOOK, content=body, headers=signed(body)), 503, "E.TEMPORAL.UNAVAILABLE")
        ringing.is_away = False
        assert (await http.post(HOOK, content=body, headers=signed(body))).json() == {"woken": True}

    @pytest.mark.parametrize(
        "body", [hook(new_id()), hook("nobody"), hook(video_id="nobody"), hook(video_id=7), hook()]
    )
    async def test_unknown_renders(self, bell: Served, body: bytes) -> None:
        ringing, http, _ = bell
        answer = await http.post(HOOK, content=body, headers=signed(body))
        assert (answer.status_code, answer.json()) == (200, {"woken": False})
        assert ringing.rung == []

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"event_data": 1}', b"\xff", b"[" * 10_000])
    async def test_what_is_no_webhook(self, bell: Served, body: bytes) -> None:
        _, http, _ = bell
        problem_of(await http.post(HOOK, content=body, headers=signed(body)), 422, "E.REQUEST.INVALID")

    async def test_whether_anybody_is_there(self, bell: Served) -> None:
        _, http, _ = bell
        assert (await http.options(HOOK)).status_code == 204


class TestRenders:
    async def test_are_listed_and_shown(self, front: Front, other: Front, database: Database) -> None:
        render_id = await add_render(database, front.tenant_id)
        (item,) = (await front.http.get("/renders")).json()["items"]
        assert (item["id"], item["state"], item["reserved_usd"]) == (str(render_id), "rendering", "1.000000")
        assert {"body", "key", "title", "workflow_id", "tenant_id"}.isdisjoint(item)
        assert (await front.http.get(f"/renders/{render_id}")).json() == item
        assert (await front.http.get("/renders", params={"job_id": str(new_id())})).json()["items"] == []
        assert (await other.http.get("/renders")).json()["items"] == []
        problem_of(await other.http.get(f"/renders/{render_id}"), 404, "E.NOT_FOUND")
        answer = await other.http.post(f"/renders/{render_id}/resolve", json={"decision": "give_up"})
        problem_of(answer, 404, "E.NOT_FOUND")

    async def test_a_person_decides_only_about_what_is_stuck(
        self, bell: Served, make_front: MakeFront, database: Database
    ) -> None:
        ringing, _, app = bell
        front = await make_front(on=app)
        render_id = await add_render(database, front.tenant_id)
        address = f"/renders/{render_id}/resolve"
        problem_of(await front.http.post(address, json={"decision": "order_again"}), 409, "E.JOB.STATE")
        await set_state(database, front.tenant_id, render_id, "stuck")
        problem_of(await front.http.post(address, json={"decision": "buy two"}), 422)
        assert (await front.http.post(address, json={"decision": "order_again"})).status_code == 202
        assert ringing.rung == [(f"w/{render_id}", "decide", ("order_again",))]
        ringing.is_over = True
        problem_of(await front.http.post(address, json={"decision": "wait"}), 409, "E.JOB.STATE")
