"""Reading one job as cheaply as it can be done, and waiting for it to change."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

from api.container import Services
from api.documents import encode, job_document, job_etag
from domain.jobs import TERMINAL


@dataclass(frozen=True, slots=True)
class Polled:
    """A job as it stands; ``body`` is None where the caller has it already."""

    etag: str
    body: bytes | None


async def poll_job(
    services: Services, tenant_id: UUID, job_id: UUID, *, if_none_match: str | None, wait: float
) -> Polled:
    """The job, at once or when it differs from what the caller has, or is finished. Raises NotFound."""
    if wait > 0:
        return await _wait_for_change(services, tenant_id, job_id, if_none_match=if_none_match, wait=wait)
    if if_none_match is None:
        return await _read(services, tenant_id, job_id)
    etag, _ = await _glance(services, tenant_id, job_id)
    if matches(if_none_match, etag):
        return Polled(etag, None)
    return await _read(services, tenant_id, job_id)


async def _wait_for_change(
    services: Services, tenant_id: UUID, job_id: UUID, *, if_none_match: str | None, wait: float
) -> Polled:
    """A wait without an ETag is one for a change from the state that is found first."""
    clock = asyncio.get_running_loop().time
    until = clock() + wait
    known = if_none_match
    with services.hub.bell(tenant_id, job_id) as bell:
        while True:
            bell.clear()
            etag, terminal = await _glance(services, tenant_id, job_id)
            known = known or etag
            changed = not matches(known, etag)
            if changed or terminal or clock() >= until or services.hub.draining:
                break
            try:
                async with asyncio.timeout_at(until):
                    await bell.wait()
            except TimeoutError:
                continue
    if if_none_match is not None and not changed:
        return Polled(etag, None)
    return await _read(services, tenant_id, job_id)


async def _glance(services: Services, tenant_id: UUID, job_id: UUID) -> tuple[str, bool]:
    row = await services.reader.get_version(tenant_id, job_id)
    return job_etag(row, services.served), row.status in TERMINAL


async def _read(services: Services, tenant_id: UUID, job_id: UUID) -> Polled:
    row = await services.reader.get_document(tenant_id, job_id)
    return Polled(job_etag(row, services.served), encode(job_document(row, services.links, services.served)))


def matches(if_none_match: str, etag: str) -> bool:
    """Whether one of the listed ETags is this one, compared weakly (RFC 9110, 13.1.2)."""
    given = if_none_match.strip()
    if given == "*":
        return True
    return any(one.strip().removeprefix("W/") == etag for one in given.split(","))
