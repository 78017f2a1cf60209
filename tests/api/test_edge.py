"""What holds for every answer: ids, headers, problems; and the pages for operators."""

import asyncio
import logging
from uuid import UUID

import httpx
import orjson
import pytest
from fastapi import FastAPI
from google.protobuf import json_format
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload, Payloads

from api.app import create_app
from tests.api.conftest import MakeFront, MakeSettings, running
from tests.api.support import Front, client_of, problem_of


def path_of(http: httpx.AsyncClient, path: str) -> str:
    """The address of something beside the versioned contract."""
    return str(http.base_url.copy_with(raw_path=path.encode()))


class TestHeaders:
    async def test_every_answer_has_them(self, front: Front, app: FastAPI) -> None:
        async with client_of(app, None) as stranger:
            answers = [
                await front.http.get("/jobs"),
                await front.http.get("/no/such"),
                await front.http.delete("/jobs"),
                await stranger.get("/jobs"),
                await stranger.get("http://longhaul/healthz"),
                await stranger.get("http://longhaul/no/such"),
            ]
        for answer in answers:
            assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"
            assert {"permissions-policy", "cross-origin-opener-policy", "cross-origin-resource-policy"} <= set(
                answer.headers
            )
            assert "strict-transport-security" not in answer.headers
            assert "server" not in answer.headers
            UUID(answer.headers["x-request-id"])

    @pytest.mark.parametrize("given", ["abc-1", "a" * 128, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
    async def test_request_id_of_the_client_is_kept(self, front: Front, given: str) -> None:
        assert (await front.http.get("/jobs", headers={"X-Request-ID": given})).headers["x-request-id"] == given

    @pytest.mark.parametrize("given", ["", "a b", "a" * 129, "é", "<script>"])
    async def test_strange_request_ids_are_replaced(self, front: Front, given: str) -> None:
        answer = await front.http.get("/jobs", headers={b"X-Request-ID": given.encode()})
        UUID(answer.headers["x-request-id"])


class TestProblems:
    async def test_wrong_method_names_the_right_ones(self, front: Front) -> None:
        for method in ("DELETE", "PUT", "TRACE", "WHATEVER"):
            answer = await front.http.request(method, "/jobs")
            problem_of(answer, 405, "E.REQUEST.METHOD")
            assert answer.headers["allow"] == "GET, POST"

    async def test_unknown_path_is_404(self, front: Front, app: FastAPI) -> None:
        problem_of(await front.http.get("/no/such"), 404, "E.NOT_FOUND")
        problem_of(await front.http.get("/jobs/"), 404, "E.NOT_FOUND")
        problem_of(await front.http.get("http://longhaul/no/such"), 404, "E.NOT_FOUND")

    async def test_unforeseen_fault_says_nothing_and_is_logged(
        self, front: Front, app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def burst(*_: object, **__: object) -> None:
            raise RuntimeError("SELECT secret FROM /etc/passwd")

        monkeypatch.setattr(type(app.state.services.reader), "get_document", burst)
        with caplog.at_level(logging.ERROR):
            answer = await front.http.get(f"/jobs/{UUID(int=0)}")
        problem = problem_of(answer, 500, "E.INTERNAL")
        assert not any(word in orjson.dumps(problem).decode() for word in ("SELECT", "passwd", "Traceback", "Runtime"))


class TestCors:
    async def test_only_named_origins_are_let_in(self, make_settings: MakeSettings, make_front: MakeFront) -> None:
        settings = make_settings(cors_origins=("https://app.example.org",))
        async with running(create_app(settings)) as app:
            front = await make_front(on=app)
            good = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}
            asked = {**good, "Access-Control-Request-Headers": "authorization,idempotency-key"}
            preflight = await front.http.options("/jobs", headers=asked)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == "https://app.example.org"
            assert "access-control-allow-credentials" not in preflight.headers
            answer = await front.http.get("/jobs", headers={"Origin": "https://app.example.org"})
            assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
            assert "ETag" in answer.headers["access-control-expose-headers"]
            refused = await front.http.get("/no", headers={"Origin": "https://app.example.org"})
            assert refused.headers["access-control-allow-origin"] == "https://app.example.org"
            strange = await front.http.get("/jobs", headers={"Origin": "https://evil.example.org"})
            assert "access-control-allow-origin" not in strange.headers

    async def test_without_origins_nobody_is(self, front: Front) -> None:
        answer = await front.http.get("/jobs", headers={"Origin": "https://app.example.org"})
        assert "access-control-allow-origin" not in answer.headers


class TestOperators:
    async def test_alive_while_not_ready(self, app: FastAPI) -> None:
        async with client_of(app, None) as http:
            assert (await http.get("http://longhaul/healthz")).json() == {"status": "alive"}
            answer = await http.get("http://longhaul/readyz")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["faults"] == {"temporal": "cannot be reached"}

    async def test_draining_process_is_not_ready(self, make_settings: MakeSettings) -> None:
        async with running(create_app(make_settings())) as app, client_of(app, None) as http:
            app.state.services.readiness.drain()
            assert (await http.get("http://longhaul/readyz")).json()["faults"] == {"process": "is shutting down"}

    async def test_metrics_count_by_template(self, front: Front) -> None:
        await front.http.get(f"/jobs/{UUID(int=1)}")
        text = (await front.http.get("http://longhaul/metrics")).text
        assert 'route="/api/v1/jobs/{job_id}",status="404"' in text
        assert str(UUID(int=1)) not in text
        assert "longhaul_sdk_metrics_up 1.0" in text

    async def test_metrics_are_guarded_where_a_token_is_set(self, make_settings: MakeSettings) -> None:
        settings = make_settings(metrics_token=SecretStr("operator"))
        async with running(create_app(settings)) as app, client_of(app, None) as http:
            url = "http://longhaul/metrics"
            problem_of(await http.get(url), 401, "E.AUTH.INVALID")
            problem_of(await http.get(url, headers={"Authorization": "Bearer wrong"}), 401)
            assert (await http.get(url, headers={"Authorization": "Bearer operator"})).status_code == 200

    async def test_openapi_promises_problems(self, app: FastAPI) -> None:
        operation = app.openapi()["paths"]["/api/v1/jobs"]["post"]
        assert operation["responses"]["422"]["content"].keys() == {"application/problem+json"}
        assert operation["responses"]["202"]["content"]["application/json"]["schema"]["$ref"].endswith("/JobDocument")
        assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/JobCreate")

    async def test_docs_are_served(self, app: FastAPI) -> None:
        async with client_of(app, None) as http:
            answer = await http.get("http://longhaul/docs")
        assert answer.status_code == 200
        assert "cdn.jsdelivr.net" in answer.headers["content-security-policy"]

    async def test_codec_endpoint_goes_both_ways(self, make_settings: MakeSettings) -> None:
        keys = SecretStr("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
        settings = make_settings(payload_keys=keys, metrics_token=SecretStr("operator"))
        plain = Payload(metadata={"encoding": b"json/plain"}, data=b'"x"')
        body = json_format.MessageToDict(Payloads(payloads=[plain]))
        async with running(create_app(settings)) as app, client_of(app, None) as http:
            headers = {"Authorization": "Bearer operator", "Origin": settings.ui_url}
            problem_of(await http.post("http://longhaul/codec/encode", json=body), 401)
            sealed = await http.post("http://longhaul/codec/encode", json=body, headers=headers)
            assert sealed.json() != body
            assert sealed.headers["access-control-allow-origin"] == settings.ui_url
            opened = await http.post("http://longhaul/codec/decode", json=sealed.json(), headers=headers)
            assert opened.json() == body
            problem_of(await http.post("http://longhaul/codec/decode", json={"x": 1}, headers=headers), 400)


async def test_parallel_starts_do_not_wait_for_temporal(front: Front) -> None:
    """With Temporal away, the first request waits for its time-out at most and the rest not even that."""
    await front.post()
    async with asyncio.timeout(5):
        await asyncio.gather(*(front.post() for _ in range(20)))
