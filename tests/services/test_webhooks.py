"""The outbox of webhooks: written with the status, signed, on the schedule, and no receiver can lead it astray."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, update
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from core.database import Database
from core.ids import new_id
from domain.errors import InvalidInput, ProviderError
from domain.jobs import NewJob
from domain.webhooks import Address, AddressRefused, Posted
from gateways.unruly import UnrulyService
from gateways.webhooks import GuardedClient, Resolver
from repositories.jobs import JobRepository
from repositories.rows import AnyRow
from repositories.tables import webhook_deliveries
from repositories.transitions import JobTransitions
from repositories.webhooks import WebhookRepository
from services.webhooks import WebhookDeliverer, WebhookService
from tests.support.publishing import BOX, new_http


class Receiver(UnrulyService):
    """Somebody's endpoint, that answers as it is told."""

    def __init__(self) -> None:
        super().__init__(host="127.0.0.1", port=0)
        self.answers: list[int] = []
        self.heard: list[tuple[dict[str, str], bytes]] = []

    def application(self) -> Starlette:
        async def hear(request: Request) -> Response:
            self.heard.append((dict(request.headers), await request.body()))
            status = self.answers.pop(0) if self.answers else 204
            return Response(status_code=status, headers={"location": f"{self.origin}/elsewhere"})

        return Starlette(routes=[Route("/{rest:path}", hear, methods=["GET", "POST"])])

    @property
    def host(self) -> str:
        return self.origin.removeprefix("http://")


@asynccontextmanager
async def post_office(database: Database) -> AsyncIterator[tuple[Receiver, WebhookService, WebhookDeliverer]]:
    async with Receiver() as receiver, new_http() as http:
        poster = GuardedClient(http, exempt=[receiver.host], timeout_seconds=2)
        service = WebhookService(database, BOX, exempt_hosts=[receiver.host])
        yield receiver, service, WebhookDeliverer(database, BOX, poster)


@pytest.fixture
async def office(
    database: Database, tenant_id: UUID
) -> AsyncIterator[tuple[Receiver, WebhookService, WebhookDeliverer]]:
    async with database.system() as connection:
        await connection.execute(update(webhook_deliveries).values(state="failed"))
    async with post_office(database) as made:
        yield made


async def add_job(database: Database, tenant_id: UUID, callback_url: str | None) -> UUID:
    job_id = new_id()
    await JobTransitions(database).queue(
        NewJob(kind="test.hold", input={}, task_queue="nobody", callback_url=callback_url),
        job_id=job_id, tenant_id=tenant_id, command_id=new_id(), args={}, max_running=100, waiting_on={}, due=None,
        lease=timedelta(hours=1),
    )  # fmt: skip
    return job_id


async def deliveries(database: Database, tenant_id: UUID) -> list[AnyRow]:
    async with database.tenant(tenant_id) as connection:
        return list(reversed(await WebhookRepository(connection).get_deliveries(limit=100, before=None)))


async def set_status(database: Database, tenant_id: UUID, job_id: UUID, status: str, *, fail: bool = False) -> None:
    async with database.tenant(tenant_id) as connection:
        finished = {"finished_at": func.now()} if status != "running" else {}
        await JobRepository(connection).record(
            job_id=job_id, event=f"job.{status}", values={"status": status, **finished}
        )
        if fail:
            raise ZeroDivisionError


class TestOutbox:
    async def test_is_written_with_every_change_of_status(
        self, database: Database, tenant_id: UUID, office: Any
    ) -> None:
        receiver, service, deliverer = office
        url = f"{receiver.origin}/hook"
        await service.check_callback(tenant_id, url)
        job_id = await add_job(database, tenant_id, url)
        await set_status(database, tenant_id, job_id, "running")
        await set_status(database, tenant_id, job_id, "succeeded")
        assert [row.type for row in await deliveries(database, tenant_id)] == [
            "job.queued",
            "job.running",
            "job.succeeded",
        ]
        await deliverer.deliver_once()
        assert len(receiver.heard) == 3
        [secret] = await service.callback_secrets(tenant_id)
        for headers, body in receiver.heard:
            assert Webhook(secret).verify(body.decode(), headers)["data"]["id"] == str(job_id)
        assert {row.state for row in await deliveries(database, tenant_id)} == {"delivered"}

    async def test_is_rolled_back_with_the_change(self, database: Database, tenant_id: UUID, office: Any) -> None:
        receiver, service, _ = office
        await service.check_callback(tenant_id, f"{receiver.origin}/")
        job_id = await add_job(database, tenant_id, f"{receiver.origin}/")
        with pytest.raises(ZeroDivisionError):
            await set_status(database, tenant_id, job_id, "running", fail=True)
        assert [row.type for row in await deliveries(database, tenant_id)] == ["job.queued"]

    async def test_nobody_to_tell_is_nothing_to_write(self, database: Database, tenant_id: UUID) -> None:
        await add_job(database, tenant_id, None)
        assert await deliveries(database, tenant_id) == []

    async def test_endpoint_hears_of_every_job(self, database: Database, tenant_id: UUID, office: Any) -> None:
        receiver, service, deliverer = office
        _, secret = await service.add_endpoint(tenant_id, f"{receiver.origin}/all")
        await add_job(database, tenant_id, None)
        await deliverer.deliver_once()
        headers, body = receiver.heard[0]
        assert Webhook(secret).verify(body.decode(), headers)["type"] == "job.queued"


class TestTries:
    async def test_failure_comes_back_on_the_schedule_under_the_same_id(
        self, database: Database, tenant_id: UUID, office: Any
    ) -> None:
        receiver, service, deliverer = office
        await service.add_endpoint(tenant_id, f"{receiver.origin}/")
        receiver.answers = [500]
        await add_job(database, tenant_id, None)
        await deliverer.deliver_once()
        [row] = await deliveries(database, tenant_id)
        assert (row.state, row.tries, row.last_status) == ("pending", 1, 500)
        assert 3 < (row.due_at - row.created_at).total_seconds() < 10
        async with database.tenant(tenant_id) as connection:
            await WebhookRepository(connection).redeliver(row.id)
        await deliverer.deliver_once()
        assert receiver.heard[0][0]["webhook-id"] == receiver.heard[1][0]["webhook-id"]
        [row] = await deliveries(database, tenant_id)
        assert row.state == "delivered"

    async def test_last_try_is_the_last(self, database: Database, tenant_id: UUID, office: Any) -> None:
        receiver, service, deliverer = office
        await service.add_endpoint(tenant_id, f"{receiver.origin}/")
        await add_job(database, tenant_id, None)
        async with database.system() as connection:
            await connection.execute(
                update(webhook_deliveries).where(webhook_deliveries.c.tenant_id == tenant_id).values(tries=9)
            )
        receiver.answers = [503]
        await deliverer.deliver_once()
        assert [row.state for row in await deliveries(database, tenant_id)] == ["failed"]

    async def test_gone_disables_the_endpoint(self, database: Database, tenant_id: UUID, office: Any) -> None:
        receiver, service, deliverer = office
        await service.add_endpoint(tenant_id, f"{receiver.origin}/")
        receiver.answers = [410]
        await add_job(database, tenant_id, None)
        await deliverer.deliver_once()
        await add_job(database, tenant_id, None)
        assert [row.state for row in await deliveries(database, tenant_id)] == ["failed"]
        async with database.tenant(tenant_id) as connection:
            [endpoint] = await WebhookRepository(connection).get_endpoints(limit=9, before=None)
        assert "410" in endpoint.disabled_reason

    async def test_redirect_is_refused(self, database: Database, tenant_id: UUID, office: Any) -> None:
        receiver, service, deliverer = office
        await service.add_endpoint(tenant_id, f"{receiver.origin}/")
        receiver.answers = [307]
        await add_job(database, tenant_id, None)
        await deliverer.deliver_once()
        [row] = await deliveries(database, tenant_id)
        assert (row.state, row.last_status, len(receiver.heard)) == ("pending", 307, 1)

    async def test_rotation_signs_with_both(self, database: Database, tenant_id: UUID, office: Any) -> None:
        receiver, service, deliverer = office
        row, old = await service.add_endpoint(tenant_id, f"{receiver.origin}/")
        new = await service.rotate(tenant_id, row.id)
        await add_job(database, tenant_id, None)
        await deliverer.deliver_once()
        headers, body = receiver.heard[0]
        for secret in (old, new):
            Webhook(secret).verify(body.decode(), headers)

    async def test_two_deliverers_share(self, database: Database, tenant_id: UUID, office: Any) -> None:
        receiver, service, deliverer = office
        await service.add_endpoint(tenant_id, f"{receiver.origin}/")
        for _ in range(10):
            await add_job(database, tenant_id, None)
        await asyncio.gather(*(deliverer.deliver_once() for _ in range(3)))
        ids = [headers["webhook-id"] for headers, _ in receiver.heard]
        assert len(ids) == len(set(ids)) == 10


class TestPoison:
    """What one tenant wants delivered must not keep anybody else's from it."""

    async def test_address_without_a_sense_fails_alone(self, database: Database, tenant_id: UUID, office: Any) -> None:
        receiver, service, deliverer = office
        await service.add_endpoint(tenant_id, f"{receiver.origin}/")
        await add_job(database, tenant_id, None)
        async with database.tenant(tenant_id) as connection:
            for url in (f"https://{'a' * 64}.example.com/", "https://a..example.com/"):
                await WebhookRepository(connection).add_delivery(
                    tenant_id=tenant_id, job_id=new_id(), url=url, kind="job.queued", data={}, box=BOX
                )
        await deliverer.deliver_once()
        states = {row.url or "": (row.state, row.last_error) for row in await deliveries(database, tenant_id)}
        assert len(receiver.heard) == 1
        assert sorted(state for state, _ in states.values()) == ["delivered", "pending", "pending"]
        assert {fault for _, fault in states.values()} == {None, "the address has a host that is not a name"}

    async def test_a_fault_of_ours_counts_as_a_failed_try(
        self, database: Database, tenant_id: UUID, office: Any
    ) -> None:
        receiver, service, _ = office

        class Broken:
            async def post(self, url: str, *, headers: dict[str, str], body: bytes) -> Posted:
                raise ZeroDivisionError(url)

        await service.add_endpoint(tenant_id, f"{receiver.origin}/")
        await add_job(database, tenant_id, None)
        await WebhookDeliverer(database, BOX, Broken()).deliver_once()
        [row] = await deliveries(database, tenant_id)
        assert (row.state, row.tries, row.last_error) == ("pending", 1, "ZeroDivisionError")


class TestAddresses:
    async def test_name_beyond_ascii_is_one_name_everywhere(self) -> None:
        asked: list[str] = []
        seen: list[httpx.Request] = []

        async def resolver(host: str, _port: int) -> list[Address]:
            asked.append(host)
            return [ipaddress.ip_address("93.184.216.34")]

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200)

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            fault = await GuardedClient(http, resolver=resolver).fault("https://Bücher.example/x")
        assert fault is None
        assert asked == ["xn--bcher-kva.example"]
        assert str(seen[0].url) == "https://93.184.216.34/x"
        assert seen[0].headers["host"] == seen[0].extensions["sni_hostname"] == "xn--bcher-kva.example"

    async def test_a_resolver_that_cannot_spell_is_no_crash(self) -> None:
        async def resolver(host: str, _port: int) -> list[Address]:
            raise UnicodeError(host)

        async with new_http() as http:
            posted = await GuardedClient(http, resolver=resolver).post("https://example.org/", headers={}, body=b"")
        assert posted.error == "the address makes no sense"

    async def test_private_one_is_refused_when_it_is_given(self, database: Database, tenant_id: UUID) -> None:
        service = WebhookService(database, BOX, exempt_hosts=())
        with pytest.raises(InvalidInput) as refused:
            await service.check_callback(tenant_id, "https://169.254.169.254/")
        assert refused.value.faults[0].pointer == "/callback_url"

    @pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::1", "64:ff9b::7f00:1", "169.254.169.254"])
    async def test_name_that_leads_inside_is_refused_when_it_is_called(self, address: str) -> None:
        async def resolver(_host: str, _port: int) -> list[Address]:
            return [ipaddress.ip_address("93.184.216.34"), ipaddress.ip_address(address)]

        async with new_http() as http:
            posted = await GuardedClient(http, resolver=resolver).post("https://example.org/", headers={}, body=b"")
        assert posted.error == "the address is not an address of the public internet"

    async def test_connects_to_what_was_checked(self) -> None:
        """Rebinding: the name is resolved once, and the request goes to that address with the name kept."""
        asked: list[str] = []
        seen: list[httpx.Request] = []

        async def resolver(host: str, _port: int) -> list[Address]:
            asked.append(host)
            return [ipaddress.ip_address("93.184.216.34")]

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200)

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            posted = await GuardedClient(http, resolver=resolver).post("https://example.org/x", headers={}, body=b"1")
        assert posted.delivered
        assert asked == ["example.org"]
        assert str(seen[0].url) == "https://93.184.216.34/x"
        assert seen[0].headers["host"] == "example.org"
        assert seen[0].extensions["sni_hostname"] == "example.org"


class TestLinks:
    """Addresses that only readers follow: less is asked of their spelling, and no less of where they lead."""

    PUBLIC = "93.184.216.34"

    @pytest.mark.parametrize(
        ("url", "asked"),
        [
            ("http://example.org/", "http://93.184.216.34/"),
            ("http://example.org:8080/x", "http://93.184.216.34:8080/x"),
            ("https://example.org:444/", "https://93.184.216.34:444/"),
            ("https://example.org/", "https://93.184.216.34/"),
        ],
    )
    async def test_that_answers_is_fine(self, url: str, asked: str) -> None:
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(302, headers={"location": "http://127.0.0.1/"})

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            assert await GuardedClient(http, resolver=leads_to(self.PUBLIC)).fault(url) is None
        [request] = seen
        assert str(request.url) == asked
        assert request.headers["host"] == url.split("/")[2]

    @pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::1", "169.254.169.254"])
    async def test_that_leads_inside_is_refused(self, address: str) -> None:
        async with new_http() as http:
            named = await GuardedClient(http, resolver=leads_to(self.PUBLIC, address)).fault("http://example.org:8080/")
            host = f"[{address}]" if ":" in address else address
            spelled = await GuardedClient(http).fault(f"http://{host}:8080/")
        assert named == spelled == "the address is not an address of the public internet"

    @pytest.mark.parametrize(
        ("status", "fault"), [(404, "answers 404"), (410, "answers 410"), (403, None), (500, None)]
    )
    async def test_that_is_answered_for(self, status: int, fault: str | None) -> None:
        transport = httpx.MockTransport(lambda _request: httpx.Response(status))
        async with httpx.AsyncClient(transport=transport) as http:
            assert await GuardedClient(http, resolver=leads_to(self.PUBLIC)).fault("http://example.org/") == fault

    @pytest.mark.parametrize(
        "trouble",
        [
            OSError("no route to the resolver"),
            socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution"),
            TimeoutError(),
        ],
    )
    async def test_a_failed_look_up_says_nothing(self, trouble: OSError) -> None:
        async with new_http() as http:
            with pytest.raises(ProviderError) as unanswered:
                await GuardedClient(http, resolver=fails_with(trouble)).fault("https://example.org/")
        assert unanswered.value.may_retry

    async def test_no_answer_says_nothing(self) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused", request=request)

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            with pytest.raises(ProviderError) as unanswered:
                await GuardedClient(http, resolver=leads_to(self.PUBLIC)).fault("https://example.org/")
        assert unanswered.value.may_retry

    async def test_a_name_that_does_not_exist_is_an_answer(self) -> None:
        trouble = socket.gaierror(socket.EAI_NONAME, "name or service not known")
        async with new_http() as http:
            fault = await GuardedClient(http, resolver=fails_with(trouble)).fault("https://example.org/")
        assert fault == "the name cannot be resolved"

    async def test_webhooks_are_as_strict_as_before(self) -> None:
        async with new_http() as http:
            client = GuardedClient(http, resolver=leads_to(self.PUBLIC))
            for url in ("http://example.org/", "https://example.org:444/"):
                assert not (await client.post(url, headers={}, body=b"")).delivered
                with pytest.raises(AddressRefused):
                    async with client.stream(url):
                        pass


def leads_to(*addresses: str) -> Resolver:
    """A resolver that gives the same answer to everybody."""

    async def resolver(_host: str, _port: int) -> list[Address]:
        return [ipaddress.ip_address(address) for address in addresses]

    return resolver


def fails_with(trouble: OSError) -> Resolver:
    """A resolver that does not work."""

    async def resolver(_host: str, _port: int) -> list[Address]:
        raise trouble

    return resolver
