import contextlib
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from services.stack.errors import FolderInUse, PortTaken, StackError
from services.stack.guarded import wait_until
from services.stack.ports import free_port, port_answers
from services.stack.temporal import EmbeddedTemporal
from tests.services.stack.conftest import Owners, ended, new_folder

pytestmark = pytest.mark.e2e

TENANT = SearchAttributeKey.for_keyword("Tenant")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedTemporal]:
    """One server for the tests that do not mind restarts."""
    with new_folder() as folder:
        temporal = EmbeddedTemporal(
            folder / "temporal", port=free_port(), ui_port=free_port(), metrics_port=free_port()
        )
        temporal.start()
        yield temporal
        temporal.stop()


async def retention_of(client: Client) -> timedelta:
    found = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    return found.config.workflow_execution_retention_ttl.ToTimedelta()


class TestStart:
    async def test_serves_front_end_ui_and_metrics(self, server: EmbeddedTemporal) -> None:
        assert all(port_answers(port) for port, _ in server._ports())
        assert await retention_of(await Client.connect(server.address)) == timedelta(days=30)

    def test_a_living_owner_keeps_others_off(self, server: EmbeddedTemporal) -> None:
        with pytest.raises(FolderInUse):
            EmbeddedTemporal(server.data_dir, port=free_port(), ui_port=None).start()
        assert server.running

    @pytest.mark.parametrize(
        ("taken", "setting"),
        [
            ("port", "LONGHAUL_TEMPORAL_PORT"),
            ("ui_port", "LONGHAUL_TEMPORAL_UI_PORT"),
            ("metrics_port", "LONGHAUL_TEMPORAL_METRICS_PORT"),
        ],
    )
    def test_a_taken_port_names_its_setting(self, folder: Path, taken: str, setting: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            ports = {"port": free_port(), "ui_port": free_port(), "metrics_port": free_port()} | {taken: port}
            with pytest.raises(PortTaken, match=f"^port {port} is taken; set {setting} to another$"):
                EmbeddedTemporal(folder / "temporal", **ports).start()

    def test_reports_the_log_when_it_fails(self, folder: Path) -> None:
        temporal = EmbeddedTemporal(folder / "temporal", port=free_port(), ui_port=None)
        temporal.db_path.mkdir(parents=True)
        with pytest.raises(StackError, match="Temporal did not start: it ended with code 1"):
            temporal.start()
        assert not temporal.running


class TestDurability:
    async def test_a_workflow_survives_sigkill(self, server: EmbeddedTemporal) -> None:
        client = await Client.connect(server.address)
        await client.start_workflow("Nothing", id="survivor", task_queue="nobody")
        server.kill()
        assert not server.running
        server.start()
        client = await Client.connect(server.address)
        description = await client.get_workflow_handle("survivor").describe()
        assert description.status is not None
        assert description.status.name == "RUNNING"

    async def test_an_existing_file_is_brought_up_to_date(self, folder: Path, stopping: contextlib.ExitStack) -> None:
        """Retention and search attributes follow the arguments, usable at once; the CLI sets them on new files only."""
        port = free_port()
        old = EmbeddedTemporal(folder / "t", port=port, ui_port=None, search_attributes={}, retention_days=1)
        stopping.callback(old.kill)
        old.start()
        old.kill()
        new = EmbeddedTemporal(folder / "t", port=port, ui_port=None, retention_days=7)
        stopping.callback(new.kill)
        new.start()
        client = await Client.connect(new.address)
        assert await retention_of(client) == timedelta(days=7)
        attributes = TypedSearchAttributes([SearchAttributePair(TENANT, "acme")])
        handle = await client.start_workflow("Nothing", id="x", task_queue="nobody", search_attributes=attributes)
        assert (await handle.describe()).typed_search_attributes[TENANT] == "acme"
        new.kill()
        changed = EmbeddedTemporal(folder / "t", port=port, ui_port=None, search_attributes={"Tenant": "Int"})
        with pytest.raises(StackError, match="search attribute Tenant exists"):
            changed.start()

    async def test_a_file_cut_short_while_it_was_made_is_made_anew(
        self, folder: Path, stopping: contextlib.ExitStack
    ) -> None:
        """SIGKILL during the very first start leaves a file without a schema, which the server would never mend."""
        temporal = EmbeddedTemporal(folder / "temporal", port=free_port(), ui_port=None)
        stopping.callback(temporal.kill)
        temporal.data_dir.mkdir()
        temporal._drop_half_made_file()
        temporal.db_path.write_bytes(b"")
        temporal.start()
        assert await retention_of(await Client.connect(temporal.address)) == timedelta(days=30)


class TestOwnerKilled:
    @pytest.mark.parametrize("guards", [False, True])
    def test_the_next_start_works(
        self, folder: Path, owners: Owners, stopping: contextlib.ExitStack, *, guards: bool
    ) -> None:
        """At once and on the same ports; with the guards killed as well the old server is still there."""
        port, ui_port = free_port(), free_port()
        temporal = EmbeddedTemporal(folder / "temporal", port=port, ui_port=ui_port)
        arguments = f"Path({str(temporal.data_dir)!r}), port={port}, ui_port={ui_port}"
        owner = owners.start(f"t = EmbeddedTemporal({arguments}); t.start(); tell(t)")
        owner.kill(guards=guards)
        stopping.callback(temporal.kill)
        temporal.start()
        assert wait_until(lambda: ended(owner.pids[0]), 5)


def test_two_side_by_side(server: EmbeddedTemporal, folder: Path, stopping: contextlib.ExitStack) -> None:
    other = EmbeddedTemporal(folder / "temporal", port=free_port(), ui_port=free_port())
    stopping.callback(other.kill)
    other.start()
    assert server.running
    assert other.running
