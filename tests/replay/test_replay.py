"""Committed histories of every workflow type run through today's code; and what histories may, and may not, hold."""

from typing import Any, Final
from unittest.mock import MagicMock
from uuid import UUID

import pytest
from google.protobuf.message import Message
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import worker
from core.database import Database
from core.store import ArtifactStore
from core.temporal import create_data_converter, strict_sandbox, workflow_sandbox
from tests.replay.record import CANARIES, SCENARIOS, committed, rejecting_model, workflow_type
from tests.support.course_service import serving_courses

HISTORIES: Final = committed()
MOST_PAYLOAD_BYTES: Final = 4_096


def registered() -> list[type]:
    """Every workflow that the worker process serves."""
    return [kind for queue in worker.queues(MagicMock()) for kind in queue.workflows]


def name_of(kind: type) -> str | None:
    """The name under which a workflow is known to Temporal."""
    return workflow._Definition.must_from_class(kind).name


def replayer(*workflows: type, runner: SandboxedWorkflowRunner | None = None) -> Replayer:
    """A replayer that is wired like our workers."""
    return Replayer(
        workflows=workflows or registered(),
        data_converter=create_data_converter(None),
        workflow_runner=runner or workflow_sandbox(),
    )


class TestReplay:
    @pytest.mark.parametrize("name", HISTORIES)
    async def test_todays_code_takes_the_same_decisions(self, name: str) -> None:
        """A run that was in progress when this code was deployed goes on."""
        await replayer().replay_workflow(HISTORIES[name])

    @pytest.mark.parametrize("name", HISTORIES)
    async def test_nothing_in_workflows_asks_the_world(self, name: str) -> None:
        """Our workers let the workflow modules through the sandbox; here it watches them."""
        await replayer(runner=strict_sandbox()).replay_workflow(HISTORIES[name])

    def test_only_workers_let_workflows_through(self) -> None:
        """Otherwise the replays above would watch nothing."""
        assert "workflows" in workflow_sandbox().restrictions.passthrough_modules
        assert "workflows" not in strict_sandbox().restrictions.passthrough_modules

    async def test_another_course_of_things_is_noticed(self) -> None:
        """The replayer is no rubber stamp: a history whose steps are swapped fails."""
        document = HISTORIES["succeeded.1.CourseGeneration.json"].to_json_dict()
        for event in document["events"]:
            scheduled = event.get("activityTaskScheduledEventAttributes", {})
            if scheduled.get("activityType", {}).get("name") == "write_outline":
                scheduled["activityType"]["name"] = "export_course"
        with pytest.raises(workflow.NondeterminismError):
            await replayer().replay_workflow(WorkflowHistory.from_json("made-up", document))

    def test_every_workflow_type_has_a_history(self) -> None:
        """Whoever registers a new one records it: ``python -m tests.replay.record``."""
        assert {name_of(kind) for kind in registered()} == {workflow_type(history) for history in HISTORIES.values()}

    def test_every_scenario_has_its_histories(self) -> None:
        """None was forgotten, none is left over."""
        assert {name.partition(".")[0] for name in HISTORIES} == set(SCENARIOS)

    def test_the_histories_show_what_their_names_say(self) -> None:
        """Paused ones heard the signal, failed ones have a failed module, canceled ones a request."""
        assert "set_paused" in signals(HISTORIES["paused.1.CourseGeneration.json"])
        assert "set_paused" in signals(HISTORIES["paused.2.CourseModule.json"])
        modules = [history for name, history in HISTORIES.items() if name.startswith("failed.") and "Module" in name]
        assert any(kinds(module)[-1] == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED for module in modules)
        canceled = HISTORIES["canceled.1.CourseGeneration.json"]
        assert EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED in kinds(canceled)
        assert len([name for name in HISTORIES if name.startswith("succeeded.")]) == 3


class TestContents:
    @pytest.mark.parametrize("name", HISTORIES)
    def test_committed_histories_are_small_and_discreet(self, name: str) -> None:
        """References only: nothing large, and nothing of what people wrote."""
        assert_small_and_discreet(HISTORIES[name])

    @pytest.mark.parametrize("scenario", SCENARIOS)
    async def test_todays_histories_are_small_and_discreet(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, scenario: str
    ) -> None:
        """The same holds for what this code writes now, and it replays what it wrote."""
        async with (
            rejecting_model() as model,
            serving_courses(temporal, database, store, tenant_id, more_models=[model]) as courses,
        ):
            histories = await SCENARIOS[scenario](courses)
        for history in histories:
            await replayer().replay_workflow(history)
        for history in histories:
            assert_small_and_discreet(history)

    def test_a_canary_would_be_found(self) -> None:
        """Also inside of a payload, and in any case."""
        document = HISTORIES["noop.1.Noop.json"].to_json_dict()
        history = WorkflowHistory.from_json("made-up", document)
        started = history.events[0].workflow_execution_started_event_attributes
        started.input.payloads.append(Payload(data=b'{"topic": "A CANARY"}'))
        with pytest.raises(AssertionError, match="canary"):
            assert_small_and_discreet(history)


def assert_small_and_discreet(history: WorkflowHistory) -> None:
    """No payload above 4 KB, no canary anywhere."""
    for event in history.events:
        for payload in payloads(event):
            assert payload.ByteSize() <= MOST_PAYLOAD_BYTES, EventType.Name(event.event_type)
        words = event.SerializeToString().lower()
        found = [canary for canary in CANARIES if canary.lower().encode() in words]
        assert not found, f"{found} in {EventType.Name(event.event_type)}"


def payloads(message: Message) -> list[Payload]:
    """Every payload in a message, however deep."""
    if isinstance(message, Payload):
        return [message]
    found: list[Payload] = []
    for _, value in message.ListFields():
        for item in parts(value):
            found += payloads(item)
    return found


def parts(value: Any) -> list[Message]:
    """The messages in the value of a field."""
    if isinstance(value, Message):
        return [value]
    if hasattr(value, "values"):
        value = value.values()
    try:
        return [item for item in value if isinstance(item, Message)]
    except TypeError:
        return []


def kinds(history: WorkflowHistory) -> list[int]:
    """The types of all events."""
    return [event.event_type for event in history.events]


def signals(history: WorkflowHistory) -> list[str]:
    """The names of all signals heard."""
    return [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]
