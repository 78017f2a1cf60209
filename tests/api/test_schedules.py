"""Schedules over HTTP, with no Temporal behind: what is acknowledged is in our rows."""

from typing import Any

import pytest

from tests.api.conftest import MakeFront
from tests.api.support import Front, pointers, problem_of

WISH: dict[str, Any] = {
    "kind": "diagnostics.noop",
    "spec": {"cron": "0 3 * * 1-5", "time_zone": "Europe/Berlin", "jitter": "5m"},
    "labels": {"team": "night"},
}


async def make(front: Front, **more: Any) -> dict[str, Any]:
    answer = await front.http.post("/schedules", json={**WISH, **more})
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    assert answer.headers["location"].endswith(f"/schedules/{document['id']}")
    return document


class TestCreate:
    async def test_document(self, front: Front) -> None:
        """While Temporal is away it is a schedule all the same, and says what it waits for."""
        made = await make(front)
        assert made["catchup_window"] == "PT1H"
        assert made["overlap"] == "skip"
        assert made["spec"]["jitter"] == "PT5M"
        assert made["waiting_on"]["kind"] == "temporal"
        assert (made["next_times"], made["missed"], made["last_runs"]) == (None, None, [])
        assert "schedule%2F" in made["links"]["temporal_ui"]
        found = (await front.http.get(f"/schedules/{made['id']}")).json()
        assert found["id"] == made["id"]

    @pytest.mark.parametrize(
        ("change", "where"),
        [
            ({"kind": "nix.nix"}, "/kind"),
            ({"input": {"x": 1}}, "/input/x"),
            ({"spec": {}}, "/spec"),
            ({"spec": {"cron": "61 * * * *"}}, "/spec/cron"),
            ({"spec": {"cron": "* * *"}}, "/spec/cron"),
            ({"spec": {"cron": "0 0 13 * 5"}}, "/spec/cron"),
            ({"spec": {"cron": "0 3 * * *", "time_zone": "Europe/Nowhere"}}, "/spec/time_zone"),
            ({"spec": {"interval": "soon"}}, "/spec/interval"),
            ({"spec": {"calendar": {"hour": 24}}}, "/spec/calendar/hour"),
            ({"overlap": "terminate_other"}, "/overlap"),
            ({"catchup_window": 1}, "/catchup_window"),
            ({"labels": {"longhaul.schedule": "mine"}}, "/labels"),
            ({"nonsense": 1}, "/nonsense"),
        ],
    )
    async def test_refused_at_once(self, front: Front, change: dict[str, Any], where: str) -> None:
        answer = await front.http.post("/schedules", json={**WISH, **change})
        assert pointers(answer) == [where]

    async def test_same_key_same_schedule(self, front: Front) -> None:
        headers = {"Idempotency-Key": '"s-1"'}
        first = await front.http.post("/schedules", json=WISH, headers=headers)
        second = await front.http.post("/schedules", json=WISH, headers=headers)
        assert first.json()["id"] == second.json()["id"]
        assert second.headers["idempotent-replayed"] == "true"
        other = await front.http.post("/schedules", json={**WISH, "priority": 1}, headers=headers)
        problem_of(other, 422, "E.IDEMPOTENCY.MISMATCH")


class TestLife:
    async def test_list_change_pause_resume_delete(self, front: Front) -> None:
        made = [await make(front, name=f"s{number}") for number in range(3)]
        page = (await front.http.get("/schedules", params={"limit": 2})).json()
        assert [item["name"] for item in page["items"]] == ["s2", "s1"]
        rest = (await front.http.get("/schedules", params={"limit": 2, "cursor": page["next_cursor"]})).json()
        assert ([item["name"] for item in rest["items"]], rest["next_cursor"]) == (["s0"], None)
        where = f"/schedules/{made[0]['id']}"
        changed = (await front.http.patch(where, json={"spec": {"interval": {"every": "PT2H"}}})).json()
        assert changed["spec"]["interval"] == [{"every": "PT2H", "offset": "PT0S"}]
        assert changed["name"] == "s0"
        paused = (await front.http.post(f"{where}/pause", json={"note": "holiday"})).json()
        assert (paused["paused"], paused["note"]) == (True, "holiday")
        assert (await front.http.post(f"{where}/resume")).json()["paused"] is False
        assert (await front.http.delete(where)).status_code == 204
        problem_of(await front.http.get(where), 404)
        problem_of(await front.http.delete(where), 404)

    async def test_trigger_and_backfill_do_nothing_without_temporal(self, front: Front) -> None:
        where = f"/schedules/{(await make(front))['id']}"
        problem_of(await front.http.post(f"{where}/trigger"), 503, "E.TEMPORAL.UNAVAILABLE")
        span = {"start_at": "2026-01-01T00:00:00Z", "end_at": "2026-01-02T00:00:00Z"}
        problem_of(await front.http.post(f"{where}/backfill", json=span), 503, "E.TEMPORAL.UNAVAILABLE")
        span = {"start_at": "2026-01-02T00:00:00Z", "end_at": "2026-01-01T00:00:00Z"}
        assert pointers(await front.http.post(f"{where}/backfill", json=span)) == [""]

    async def test_somebody_elses(self, front: Front, other: Front) -> None:
        where = f"/schedules/{(await make(front))['id']}"
        for answer in (
            await other.http.get(where),
            await other.http.patch(where, json={"priority": 1}),
            await other.http.post(f"{where}/pause"),
            await other.http.post(f"{where}/trigger"),
            await other.http.delete(where),
        ):
            problem_of(answer, 404)
        assert (await other.http.get("/schedules")).json()["items"] == []

    async def test_needs_the_scope(self, make_front: MakeFront) -> None:
        reader = await make_front(scopes=["jobs:read"])
        problem_of(await reader.http.post("/schedules", json=WISH), 403, "E.AUTH.SCOPE")
