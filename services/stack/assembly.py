"""Which processes make up the stack of `make up`, and what each is told."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from core.settings import Settings, stack_file
from services.commands import SEARCH_ATTRIBUTES
from services.schema import migrate
from services.stack.postgres import EmbeddedPostgres
from services.stack.processes import ChildProcess
from services.stack.service import Service
from services.stack.temporal import EmbeddedTemporal

ROOT: Final = Path(__file__).resolve().parents[2]
STANDIN_KEY: Final = "stand-in"


@dataclass
class EmbeddedStack:
    """Everything that serves: PostgreSQL and Temporal unless real ones are configured, the API, one worker.

    ``prepare`` starts the database and migrates it; the returned services are then for a supervisor.
    """

    settings: Settings
    echo: bool = False
    _servers: list[Service] = field(default_factory=list)

    def prepare(self) -> list[Service]:
        """Start what has to run before the rest, migrate, leave the addresses behind; all services in order."""
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        database_url, migration_url = self._database()
        migrate(migration_url, profile=self.settings.profile.value)
        addresses = {"database_url": database_url, "database_migration_url": migration_url}
        self._leave_behind(addresses)
        if self.settings.temporal_address is None:
            self._servers.append(self._temporal())
        return [*self._servers, *self._processes(database_url, migration_url)]

    def stop(self) -> None:
        """Stop what ``prepare`` started, where no supervisor took over."""
        for server in reversed(self._servers):
            server.stop()

    def _database(self) -> tuple[str, str]:
        settings = self.settings
        if "DATABASE_URL" in os.environ:
            return settings.require_database_url(), settings.require_migration_url()
        postgres = EmbeddedPostgres(settings.data_dir / "postgres")
        self._servers.append(postgres)
        postgres.start()
        return postgres.runtime_url, postgres.superuser_url

    def _temporal(self) -> EmbeddedTemporal:
        settings = self.settings
        return EmbeddedTemporal(
            settings.data_dir / "temporal",
            port=settings.temporal_port,
            ui_port=settings.temporal_ui_port,
            namespace=settings.temporal_namespace,
            search_attributes=SEARCH_ATTRIBUTES,
            ui_codec_endpoint=f"{settings.base_url}/codec" if settings.payload_keys else None,
        )

    def _leave_behind(self, addresses: dict[str, str]) -> None:
        file = stack_file(self.settings.data_dir)
        file.write_text(json.dumps(addresses))
        file.chmod(0o600)

    def _processes(self, database_url: str, migration_url: str) -> Sequence[ChildProcess]:
        settings = self.settings
        environment = {**os.environ, "DATABASE_URL": database_url, "DATABASE_MIGRATION_URL": migration_url}
        environment["LONGHAUL_DATA_DIR"] = str(settings.data_dir.resolve())
        # The sandbox loads its module anew for every workflow: let it be from bytecode and not from source.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if settings.standin_openai:
            environment["LONGHAUL_OPENAI_BASE_URL"] = f"http://127.0.0.1:{settings.standin_openai_port}/v1"
            environment["LONGHAUL_OPENAI_API_KEY"] = STANDIN_KEY
        processes = [
            self._child("api", ["-m", "api"], environment, settings.api_port, "LONGHAUL_API_PORT"),
            self._child("worker", ["worker.py"], environment, settings.worker_port, "LONGHAUL_WORKER_PORT"),
        ]
        stand_ins = [self._standin()] if settings.standin_openai else []
        if settings.telegram_base_url is None and not settings.production:
            stand_ins.append(self._standin_telegram())
        return [*stand_ins, *processes]

    def _standin(self) -> ChildProcess:
        settings = self.settings
        arguments = ["-m", "gateways.standin_openai", "--port", str(settings.standin_openai_port)]
        arguments += ["--delay", str(settings.standin_openai_delay_seconds)]
        if settings.standin_openai_faults is not None:
            arguments += ["--faults", str(settings.standin_openai_faults.resolve())]
        return self._child(
            "standin", arguments, dict(os.environ), settings.standin_openai_port, "LONGHAUL_STANDIN_OPENAI_PORT"
        )

    def _standin_telegram(self) -> ChildProcess:
        port = int(self.settings.standin_telegram_url.rpartition(":")[2])
        arguments = ["-m", "gateways.standin_telegram", "--port", str(port), "--limits"]
        return self._child("telegram", arguments, dict(os.environ), port, "LONGHAUL_STANDIN_TELEGRAM_PORT")

    def _child(
        self, name: str, arguments: Sequence[str], environment: dict[str, str], port: int, setting: str
    ) -> ChildProcess:
        return ChildProcess(
            self.settings.data_dir / name,
            argv=[sys.executable, *arguments],
            env=environment,
            cwd=ROOT,
            ports=[(port, setting)],
            grace=self.settings.shutdown_grace_seconds + 5,
            echo=print if self.echo else None,
        )
