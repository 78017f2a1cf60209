"""What is wrong with this installation, in plain words."""

import os
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from core.database import check_schema, create_database
from core.settings import ConfigurationError, Settings
from core.temporal import connect, create_data_converter
from domain.errors import LonghaulError, SchemaMismatch, TemporalUnavailable
from services.commands import SEARCH_ATTRIBUTES
from services.pollers import Pollers
from services.schema import schema_head
from services.stack.ports import port_answers

_TIMEOUT = timedelta(seconds=3)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what is wrong with it, or None where it is well."""

    subject: str
    fault: str | None = None


async def examine(settings: Settings, *, task_queues: list[str]) -> AsyncIterator[Finding]:
    """Look at everything the platform leans on, one finding at a time; later ones assume nothing of earlier ones."""
    yield _data_dir(settings.data_dir)
    for port, name in (
        (settings.api_port, "LONGHAUL_API_PORT"),
        (settings.worker_port, "LONGHAUL_WORKER_PORT"),
        (settings.temporal_port, "LONGHAUL_TEMPORAL_PORT"),
        (settings.temporal_ui_port, "LONGHAUL_TEMPORAL_UI_PORT"),
    ):
        yield _port(settings, port, name)
    yield await _finding("database", _database(settings))
    yield await _finding("Temporal", _temporal(settings))
    for queue in task_queues:
        yield await _finding(f"worker on task queue {queue}", _poller(settings, queue))


def _data_dir(folder: Path) -> Finding:
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return Finding(f"data directory {folder}")
    return Finding(f"data directory {folder}", f"{existing} is not writable; set LONGHAUL_DATA_DIR to another folder")


def _port(settings: Settings, port: int, name: str) -> Finding:
    subject = f"port {port} ({name})"
    if not port_answers(port):
        return Finding(f"{subject} is free" if not _stack_is_up(settings) else subject, None)
    if _stack_is_up(settings):
        return Finding(f"{subject} is served")
    return Finding(subject, f"port {port} is taken by another program; stop it or set {name} to another port")


def _stack_is_up(settings: Settings) -> bool:
    return (settings.data_dir / "api.pid").exists()


async def _finding(subject: str, look: Awaitable[str | None]) -> Finding:
    try:
        return Finding(subject, await look)
    except (LonghaulError, ConfigurationError) as fault:
        return Finding(subject, str(fault))
    except RPCError as fault:
        return Finding(subject, f"Temporal refuses: {fault.message}")


async def _database(settings: Settings) -> str | None:
    database = create_database(
        settings.require_database_url(), pool_size=1, statement_timeout_seconds=5, application_name="longhaul-doctor"
    )
    try:
        await check_schema(database, head=schema_head(), profile=settings.profile.value)
    except SchemaMismatch as fault:
        return fault.detail
    finally:
        await database.close()
    return None


async def _client(settings: Settings) -> Client:
    return await connect(
        settings.require_temporal_address(),
        namespace=settings.temporal_namespace,
        converter=create_data_converter(None),
        api_key=settings.temporal_api_key.get_secret_value() if settings.temporal_api_key else None,
        tls=settings.temporal_tls,
        lazy=False,
    )


async def _temporal(settings: Settings) -> str | None:
    client = await _client(settings)
    request = ListSearchAttributesRequest(namespace=settings.temporal_namespace)
    known = await client.operator_service.list_search_attributes(request, timeout=_TIMEOUT)
    missing = sorted(SEARCH_ATTRIBUTES.keys() - known.custom_attributes.keys())
    if missing:
        return f"search attributes are missing: {', '.join(missing)} (temporal operator search-attribute create)"
    return None


async def _poller(settings: Settings, queue: str) -> str | None:
    try:
        client = await _client(settings)
    except TemporalUnavailable:
        return "cannot be told while Temporal is away"
    served = await Pollers(client).exist_on(queue)
    return None if served else "no worker polls it; start one with `python worker.py`"
