"""Federated learning over HTTP: what a device sees."""

import base64
import hashlib
from typing import Any

import httpx
from fastapi import FastAPI

from api.app import create_app
from core.database import Database
from core.ids import new_id
from learning.weights import encode
from repositories.federated.registry import RegistryRepository
from tests.api.conftest import MakeFront, MakeSettings, running
from tests.api.support import Front, pointers, problem_of
from tests.support.federation import update, weights
from tests.support.round_rows import add_open_round


def digest(body: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"}


async def make_model(front: Front, name: str = "toy", **more: Any) -> dict[str, Any]:
    uploaded = await front.http.post("/artifacts", content=encode(weights(0)))
    body = {"name": name, "weights_artifact_id": uploaded.json()["id"], **more}
    answer = await front.http.post("/federated/models", json=body)
    assert answer.status_code == 201, answer.text
    model: dict[str, Any] = answer.json()
    return model


async def enrol(front: Front, make_front: MakeFront, app: FastAPI, **wish: Any) -> httpx.AsyncClient:
    """A client with the key of a new participant."""
    answer = await front.http.post("/federated/participants", json=wish)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {answer.json()['key']}"}
    return httpx.AsyncClient(transport=transport, base_url="http://longhaul/api/v1", headers=headers)


async def add_versions(database: Database, front: Front, count: int) -> None:
    """Further heads, each the child of the one before."""
    async with database.tenant(front.tenant_id) as connection:
        registry = RegistryRepository(connection)
        head = (await registry.get_model("toy")).head_id
        for number in range(count):
            child = await registry.add_version(
                front.tenant_id, "toy", parent_id=head, sha256=f"{number:064}", bytes=1, status="published"
            )
            await registry.swap_head("toy", expected=head, head=child)
            head = child


async def open_round(database: Database, front: Front, *, goal: int = 2) -> str:
    """A cycle with an open round, as its workflow would have opened it."""
    return str(await add_open_round(database, front.tenant_id, model="toy", goal=goal))


class TestModels:
    async def test_made_shown_and_listed(self, front: Front) -> None:
        made = await make_model(front)
        assert made["head"]["version"] == 1
        assert made["tensors"]["layer.bias"] == {"dtype": "F32", "shape": [3]}
        assert made["decisions"][0]["action"] == "created"
        assert (await front.http.get("/federated/models/toy")).json() == made
        assert [one["name"] for one in (await front.http.get("/federated/models")).json()["items"]] == ["toy"]
        answer = await front.http.post("/federated/models", json={"name": "toy", "family": "digits"})
        problem_of(answer, 409, "E.FEDERATED.EXISTS")

    async def test_refused(self, front: Front, other: Front) -> None:
        assert pointers(await front.http.post("/federated/models", json={"name": "No Name"})) == ["/name"]
        assert pointers(await front.http.post("/federated/models", json={"name": "x"})) == ["/weights_artifact_id"]
        answer = await front.http.post("/federated/models", json={"name": "x", "family": "nix"})
        assert pointers(answer) == ["/family"]
        await make_model(front)
        problem_of(await other.http.get("/federated/models/toy"), 404)
        problem_of(await other.http.post("/federated/models/toy/rollback"), 404)
        problem_of(await front.http.post("/federated/models/toy/rollback"), 409, "E.FEDERATED.HEAD")

    async def test_a_repeated_rollback_goes_back_once(self, front: Front, database: Database) -> None:
        """Where the request says which head it means: its answer may have been lost on the way."""
        await make_model(front)
        await add_versions(database, front, 2)
        where, wish = "/federated/models/toy/rollback", {"expected_head": 3}
        first = await front.http.post(where, json=wish)
        assert (first.status_code, first.json()["head"]["version"]) == (200, 2)
        problem_of(await front.http.post(where, json=wish), 409, "E.FEDERATED.HEAD")
        shown = (await front.http.get("/federated/models/toy")).json()
        assert shown["head"]["version"] == 2
        assert [one["action"] for one in shown["decisions"]] == ["rolled_back", "created"]
        unguarded = await front.http.post(where)
        assert unguarded.json()["head"]["version"] == 1

    async def test_predict(self, front: Front) -> None:
        """With a family that runs everywhere; a family that nobody here knows has no runtime."""
        made = await front.http.post("/federated/models", json={"name": "numbers", "family": "digits"})
        assert made.status_code == 201, made.text
        samples = [{"pixels": [0] * 64}]
        answer = await front.http.post("/federated/models/numbers/predict", json={"samples": samples})
        assert answer.status_code == 200, answer.text
        assert answer.json()["version"] == 1
        assert len(answer.json()["predictions"]) == 1
        bad = await front.http.post("/federated/models/numbers/predict", json={"samples": [{"pixels": [1]}]})
        assert pointers(bad) == ["/samples"]
        await make_model(front)
        answer = await front.http.post("/federated/models/toy/predict", json={"samples": [{}]})
        problem_of(answer, 503, "E.FEDERATED.NO_RUNTIME")

    async def test_predictions_are_rate_limited(self, make_settings: MakeSettings, make_front: MakeFront) -> None:
        async with running(create_app(make_settings(federated_predict_rate_limit="2/minute"))) as app:
            front = await make_front(on=app)
            await front.http.post("/federated/models", json={"name": "numbers", "family": "digits"})
            body = {"samples": [{"pixels": [0] * 64}]}
            answers = [await front.http.post("/federated/models/numbers/predict", json=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "retry-after" in answers[2].headers

    async def test_jobs_on_unknown_models(self, front: Front) -> None:
        answer = await front.http.post("/jobs", json={"kind": "federated.cycle", "input": {"model": "nix"}})
        assert pointers(answer) == ["/input/model"]
        answer = await front.http.post(
            "/jobs", json={"kind": "federated.cycle", "input": {"model": "toy", "goal": 2, "quorum": 3}}
        )
        assert pointers(answer) == ["/input"]


class TestTakingPart:
    async def test_from_enrolment_to_receipt(
        self, front: Front, make_front: MakeFront, app: FastAPI, database: Database
    ) -> None:
        """A device in a dozen lines: lease, weights, heartbeat, update, receipt."""
        made = await make_model(front)
        async with await enrol(front, make_front, app, model="toy") as device:
            waiting = await device.post("/federated/leases")
            assert waiting.status_code == 204
            assert int(waiting.headers["retry-after"]) >= 1
            job_id = await open_round(database, front)
            lease = (await device.post("/federated/leases", json={"model": "toy"})).json()
            assert lease["base_sha256"] == made["head"]["sha256"]
            token = {"Lease-Token": lease["token"]}
            base = await device.get(f"/federated/blobs/{lease['base_sha256']}")
            assert hashlib.sha256(base.content).hexdigest() == lease["base_sha256"]
            part = await device.get(f"/federated/blobs/{lease['base_sha256']}", headers={"Range": "bytes=8-15"})
            assert (part.status_code, part.content) == (206, base.content[8:16])
            same = await device.get(
                f"/federated/blobs/{lease['base_sha256']}", headers={"If-None-Match": base.headers["etag"]}
            )
            assert same.status_code == 304
            assert (await device.post(f"/federated/leases/{lease['id']}/heartbeat", headers=token)).status_code == 200
            where, body = f"/federated/updates/{lease['id']}", update(4)
            first = await device.put(where, content=body, headers=digest(body) | token)
            assert first.status_code == 201, first.text
            again = await device.put(where, content=body, headers=digest(body) | token)
            assert (again.status_code, again.json()) == (200, first.json())
            other = update(5)
            problem_of(
                await device.put(where, content=other, headers=digest(other) | token), 409, "E.FEDERATED.CONFLICT"
            )
            receipt = (await device.get(where)).json()
            assert (receipt["status"], receipt["sha256"]) == ("accepted", hashlib.sha256(body).hexdigest())
        rounds = (await front.http.get(f"/federated/cycles/{job_id}/rounds")).json()
        assert [(one["number"], one["accepted"]) for one in rounds["items"]] == [(1, 1)]

    async def test_refusals(self, front: Front, make_front: MakeFront, app: FastAPI, database: Database) -> None:
        await make_model(front)
        await open_round(database, front)
        async with await enrol(front, make_front, app) as device:
            lease = (await device.post("/federated/leases")).json()
            where, bad = f"/federated/updates/{lease['id']}", update(1)[:-4]
            problem = problem_of(await device.put(where, content=bad, headers=digest(bad)), 422, "E.FEDERATED.UPDATE")
            assert problem["errors"][0]["pointer"] == "/update/length"
            assert pointers(await device.put(where, content=bad)) == ["/header/content-digest"]
            large = b"\x10" + b"\0" * (lease["max_update_bytes"] + 8)
            problem_of(await device.put(where, content=large, headers=digest(large)), 413)
            unknown = f"/federated/updates/{new_id()}"
            problem_of(await device.put(unknown, content=bad, headers=digest(bad)), 404)

    async def test_closed(self, front: Front, make_front: MakeFront, app: FastAPI, database: Database) -> None:
        """The round is full: 410, and 204 for whoever asks for work."""
        await make_model(front)
        await open_round(database, front, goal=1)
        first, second = [await enrol(front, make_front, app) for _ in range(2)]
        async with first, second:
            leases = [(await device.post("/federated/leases")).json() for device in (first, second)]
            body = update(1)
            sent = await first.put(f"/federated/updates/{leases[0]['id']}", content=body, headers=digest(body))
            assert sent.status_code == 201
            late = await second.put(f"/federated/updates/{leases[1]['id']}", content=body, headers=digest(body))
            problem_of(late, 410, "E.FEDERATED.ROUND_CLOSED")
            assert (await second.post("/federated/leases")).status_code == 204

    async def test_the_key_may_do_nothing_else(self, front: Front, make_front: MakeFront, app: FastAPI) -> None:
        await make_model(front)
        async with await enrol(front, make_front, app) as device:
            for answer in (
                await device.get("/jobs"),
                await device.get("/federated/models/toy"),
                await device.post("/federated/models/toy/predict", json={"samples": [{}]}),
                await device.post("/federated/participants", json={}),
            ):
                problem_of(answer, 403, "E.AUTH.SCOPE")

    async def test_weights_of_others(self, front: Front, other: Front, make_front: MakeFront, app: FastAPI) -> None:
        sha256 = (await make_model(front))["head"]["sha256"]
        async with await enrol(other, make_front, app) as stranger:
            problem_of(await stranger.get(f"/federated/blobs/{sha256}"), 404)
        problem_of(await other.http.get(f"/federated/cycles/{new_id()}/rounds"), 404)
