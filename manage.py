"""The operator's command line: ``python manage.py --help``."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from core.database import Database, create_database
from core.logging import configure_logging
from core.process import leave
from core.settings import ConfigurationError, Settings, load_settings
from domain.errors import LonghaulError, NotFound
from services import schema
from services.demo import DemoFailed, run_demo
from services.doctor import examine
from services.stack.assembly import EmbeddedStack
from services.stack.errors import StackError
from services.stack.processes import Supervisor
from services.tenants import ALL_SCOPES, TenantService
from workflows import diagnostics, federated, generation, publishing, saving, schedules

DEVELOPMENT_TENANT: Final = "development"
_START_PATIENCE: Final = timedelta(seconds=90)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 where it succeeded, 1 where it failed, 2 where it was not understood."""
    parsed = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        configure_logging(json_lines=settings.json_logs, level="WARNING", process="manage", secrets=settings.secrets())
        return int(parsed.run(settings, parsed))
    except (ConfigurationError, LonghaulError, StackError, DemoFailed) as fault:
        print(f"longhaul: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manage.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Settings, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    command("up", up, "serve everything until Ctrl-C").add_argument("--echo", action="store_true", help="show logs")
    command("demo", demo, "run one real job of every family, then stop what was started")
    command("migrate", migrate, "bring the database schema to this version")
    command("doctor", doctor, "say in plain words what is wrong")
    _tenant_commands(command("tenant", tenant_create, "tenants"))
    _key_commands(command("key", key_create, "API keys"))
    return parser


def _tenant_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="ACTION")
    create = commands.add_parser("create", help="create a tenant and print its first key, once")
    create.add_argument("name")
    create.set_defaults(run=tenant_create)
    limit = commands.add_parser("limit", help="set how many jobs of a kind a tenant may have running")
    limit.add_argument("name")
    limit.add_argument("kind")
    limit.add_argument("most", type=int)
    limit.set_defaults(run=tenant_limit)


def _key_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="ACTION")
    create = commands.add_parser("create", help="create a further key for a tenant and print it, once")
    create.add_argument("tenant")
    create.add_argument("--name", default="further")
    create.add_argument("--scope", action="append", choices=ALL_SCOPES, help="may be repeated; all by default")
    create.add_argument("--days", type=int, help="after how many days it expires; never by default")
    create.set_defaults(run=key_create)
    listing = commands.add_parser("list", help="list the keys of a tenant")
    listing.add_argument("tenant")
    listing.set_defaults(run=key_list)
    revoke = commands.add_parser("revoke", help="end a key now, by its prefix")
    revoke.add_argument("prefix")
    revoke.set_defaults(run=key_revoke)


# --- the stack --------------------------------------------------------------------------------------


def up(settings: Settings, parsed: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    asyncio.run(_with_stack(settings, _announce_ready, echo=parsed.echo, until_signal=True))
    return 0


def demo(settings: Settings, _parsed: argparse.Namespace) -> int:
    """Run the demonstration on the running stack, or on one of its own."""
    if _answers(f"{settings.base_url}/healthz") and _key_file(settings).exists():
        asyncio.run(_demonstrate(settings))
    else:
        asyncio.run(_with_stack(settings, _demonstrate, echo=False, until_signal=False))
    return 0


async def _with_stack(
    settings: Settings, then: Callable[[Settings], Awaitable[None]], *, echo: bool, until_signal: bool
) -> None:
    """Bring everything up, do ``then`` once it serves, and stop in order."""
    stack = EmbeddedStack(settings, echo=echo)
    failure: list[BaseException] = []
    try:
        print("starting PostgreSQL and migrating ...", flush=True)
        services = await asyncio.to_thread(stack.prepare)
        print("starting Temporal, the API and a worker ...", flush=True)
        supervisor = Supervisor(services, announce=lambda line: print(line, flush=True))

        async def when_started() -> None:
            try:
                await _wait_until_ready(settings)
                await _ensure_development_key(load_settings())
                await then(load_settings())
            except Exception as fault:  # noqa: BLE001 - handed on below, after everything was stopped
                failure.append(fault)
            if failure or not until_signal:
                supervisor.request_stop()

        await supervisor.run(when_started)
    finally:
        await asyncio.to_thread(stack.stop)
    if failure:
        raise failure[0]


async def _announce_ready(settings: Settings) -> None:
    print(f"  API key      {_key_file(settings)}")
    print(f"  API          {settings.base_url}/docs")
    print(f"  Temporal UI  {settings.ui_url}")
    print(f"ready {settings.base_url}", flush=True)


async def _demonstrate(settings: Settings) -> None:
    await run_demo(settings, _key_file(settings).read_text().strip())
    print("\nEverything succeeded.")


async def _wait_until_ready(settings: Settings) -> None:
    urls = [f"http://{settings.api_host}:{settings.api_port}/readyz"]
    urls.append(f"http://{settings.worker_host}:{settings.worker_port}/readyz")
    try:
        async with asyncio.timeout(_START_PATIENCE.total_seconds()):
            while not all([await asyncio.to_thread(_answers, url) for url in urls]):  # noqa: ASYNC110 - no event of ours
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise StackError(
            f"the API or the worker did not become ready; see {settings.data_dir}/api.log and worker.log"
        ) from None


def _answers(url: str) -> bool:
    with contextlib.suppress(URLError, OSError), urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback
        return int(answer.status) == 200  # noqa: PLR2004 - OK
    return False


# --- tenants and keys -------------------------------------------------------------------------------


def _key_file(settings: Settings) -> Path:
    return settings.data_dir / "dev-api-key"


async def _ensure_development_key(settings: Settings) -> None:
    """A tenant for development, with its key in a file only its owner can read."""
    file = _key_file(settings)
    async with _tenants(settings) as tenants:
        if settings.production or (file.exists() and await _is_live(tenants, file.read_text().strip())):
            return
        try:
            tenant_id = await tenants.find_tenant(DEVELOPMENT_TENANT)
        except NotFound:
            tenant_id = await tenants.create_tenant(DEVELOPMENT_TENANT)
        key = await tenants.create_key(tenant_id, name="make up")
    file.touch(mode=0o600)
    file.write_text(key.text + "\n")


async def _is_live(tenants: TenantService, key: str) -> bool:
    """Whether the key of an earlier run still opens this database; the data folder may have been made anew.

    One from before a scope existed is revoked, for it does not open everything.
    """
    try:
        keys = await tenants.list_keys(await tenants.find_tenant(DEVELOPMENT_TENANT))
    except NotFound:
        return False
    for row in keys:
        if row.revoked_at is None and key.startswith(f"lh_{row.prefix}_"):
            if set(row.scopes) >= set(ALL_SCOPES):
                return True
            await tenants.revoke_key(row.prefix)
    return False


def tenant_create(settings: Settings, parsed: argparse.Namespace) -> int:
    """Create a tenant and print its key."""

    async def create() -> str:
        async with _tenants(settings) as tenants:
            return (await tenants.create_key(await tenants.create_tenant(parsed.name), name="first")).text

    print(asyncio.run(create()))
    return 0


def tenant_limit(settings: Settings, parsed: argparse.Namespace) -> int:
    """Set how many jobs of a kind the tenant may have running at once."""

    async def limit() -> None:
        async with _tenants(settings) as tenants:
            await tenants.limit(await tenants.find_tenant(parsed.name), kind=parsed.kind, most=parsed.most)

    asyncio.run(limit())
    print(f"{parsed.name}: at most {parsed.most} jobs of {parsed.kind} run at once")
    return 0


def key_create(settings: Settings, parsed: argparse.Namespace) -> int:
    """Create a key and print it."""
    expires_at = datetime.now(UTC) + timedelta(days=parsed.days) if parsed.days else None

    async def create() -> str:
        async with _tenants(settings) as tenants:
            key = await tenants.create_key(
                await tenants.find_tenant(parsed.tenant),
                name=parsed.name,
                scopes=parsed.scope or ALL_SCOPES,
                expires_at=expires_at,
            )
            return key.text

    print(asyncio.run(create()))
    return 0


def key_list(settings: Settings, parsed: argparse.Namespace) -> int:
    """List keys by prefix."""

    async def collect() -> list[str]:
        async with _tenants(settings) as tenants:
            return [
                f"{key.prefix}  {key.name or '-'}  {','.join(key.scopes)}  "
                f"{'revoked' if key.revoked_at else f'expires {key.expires_at:%Y-%m-%d}' if key.expires_at else 'live'}"
                for key in await tenants.list_keys(await tenants.find_tenant(parsed.tenant))
            ]

    print("\n".join(asyncio.run(collect())))
    return 0


def key_revoke(settings: Settings, parsed: argparse.Namespace) -> int:
    """End a key."""

    async def revoke() -> None:
        async with _tenants(settings) as tenants:
            await tenants.revoke_key(parsed.prefix)

    asyncio.run(revoke())
    print("revoked")
    return 0


@contextlib.asynccontextmanager
async def _tenants(settings: Settings) -> AsyncIterator[TenantService]:
    database: Database = create_database(
        settings.require_database_url(), pool_size=2, statement_timeout_seconds=10, application_name="longhaul-manage"
    )
    try:
        yield TenantService(database, pepper=settings.api_key_pepper.get_secret_value())
    finally:
        await database.close()


# --- the schema and the doctor ----------------------------------------------------------------------


def migrate(settings: Settings, _parsed: argparse.Namespace) -> int:
    """Migrate."""
    schema.migrate(settings.require_migration_url(), profile=settings.profile.value)
    print(f"the schema is at {schema.schema_head()}")
    return 0


def doctor(settings: Settings, _parsed: argparse.Namespace) -> int:
    """Print every finding; 1 where something is wrong."""

    async def look() -> bool:
        well = True
        rooms = (diagnostics, generation, saving, schedules, federated, publishing)
        async for finding in examine(settings, task_queues=[room.TASK_QUEUE for room in rooms]):
            well &= finding.fault is None
            print(f"ok    {finding.subject}" if finding.fault is None else f"FAULT {finding.subject}: {finding.fault}")
        return well

    return 0 if asyncio.run(look()) else 1


if __name__ == "__main__":
    leave(main())
