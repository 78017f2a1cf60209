"""Reading one job as cheaply as it can be done, and waiting for it to change."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

from api.container import Services
from api.documents import encode, job_document, job_etag
from domain.jobs import TERMINAL
from repositories.rows import AnyRow
from services.tenants import Caller


@dataclass(frozen=True, slots=True)
class Polled:
    """A job as it stands; ``body`` is None where the caller has it already."""

    etag: str
    body: bytes | None


async def poll_job(
    services: Services, caller: Caller, job_id: UUID, *, if_none_match: str | None, wait: float
) -> Polled:
    """The job, at once or when it differs from what the caller has, or is finished.

    Raises NotFound, and Unauthenticated where the key has ended meanwhile.
    """
    tenant_id = caller.tenant_id
    if wait > 0:
        return await _wait_for_change(services, caller, job_id, if_none_match=if_none_match, wait=wait)
    if if_none_match is None:
        return await _read(services, tenant_id, job_id)
    etag = job_etag(await services.reader.get_version(tenant_id, job_id), services.served)
    if matches(if_none_match, etag):
        return Polled(etag, None)
    return await _read(services, tenant_id, job_id)


async def _wait_for_change(
    services: Services, caller: Caller, job_id: UUID, *, if_none_match: str | None, wait: float
) -> Polled:
    """A wait without an ETag is one for a change from the state that is found first."""
    tenant_id, clock = caller.tenant_id, asyncio.get_running_loop().time
    until = clock() + wait
    known = if_none_match
    rang = False
    with services.hub.bell(tenant_id, job_id) as bell:
        while True:
            bell.clear()
            # Where the bell rang, the job has changed, and the whole of it will be wanted.
            read = services.reader.get_document if rang else services.reader.get_version
            row = await read(tenant_id, job_id)
            etag = job_etag(row, services.served)
            known = known or etag
            changed = not matches(known, etag)
            if changed or row.status in TERMINAL or clock() >= until or services.hub.draining:
                break
            rang = await _rings(bell, until)
            await services.authenticator.confirm(caller.prefix)
    if if_none_match is not None and not changed:
        return Polled(etag, None)
    return _polled(services, row) if rang else await _read(services, tenant_id, job_id)


async def _rings(bell: asyncio.Event, until: float) -> bool:
    """Whether the bell rings before the moment ``until`` of the loop's clock."""
    try:
        async with asyncio.timeout_at(until):
            await bell.wait()
    except TimeoutError:
        return False
    return True


async def _read(services: Services, tenant_id: UUID, job_id: UUID) -> Polled:
    return _polled(services, await services.reader.get_document(tenant_id, job_id))


def _polled(services: Services, row: AnyRow) -> Polled:
    return Polled(job_etag(row, services.served), encode(job_document(row, services.links, services.served)))


def matches(if_none_match: str, etag: str) -> bool:
    """Whether one of the listed ETags is this one, compared weakly (RFC 9110, 13.1.2)."""
    given = if_none_match.strip()
    if given == "*":
        return True
    return any(one.strip().removeprefix("W/") == etag for one in given.split(","))
