"""Records the histories that ``test_replay.py`` replays: ``.venv/bin/python -m tests.replay.record [scenarios...]``.

Run it when a workflow has changed in a way that no run in progress can meet any more, or when a workflow type is new;
look at the difference, and commit it. As long as runs of the older code may be in progress, the older files stay and
the change is made with ``workflow.patched``.

Everything is real - PostgreSQL, Temporal, the service, the activities - but the model, which is held and broken as the
scenarios need it. Sources, topic and key are canaries: they must not get into any history.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory

from core.database import create_database
from core.http import HttpTimeouts, create_http_client
from core.ids import new_id
from core.store import create_artifact_store
from core.temporal import connect, create_data_converter
from domain.errors import Outcome, ProviderError
from domain.generation import Price
from domain.jobs import JobAction, JobRef
from domain.saving import StreamInput
from gateways.openai import OpenAILanguageModel
from gateways.standin_openai import StandInOpenAI
from gateways.standin_openai.wire import BAD_KEY
from repositories.tenants import TenantRepository
from services.artifacts import ArtifactService
from services.commands import SEARCH_ATTRIBUTES
from services.schema import migrate
from services.stack.ports import free_port
from services.stack.postgres import EmbeddedPostgres
from services.stack.temporal import EmbeddedTemporal
from tests.replay import approvals, evaluation, publishing, sections, videos
from tests.replay.timed_and_federated import MORE
from tests.support.course_doubles import until_signaled
from tests.support.course_service import Courses, serving_courses
from tests.support.job_rows import job_row
from tests.support.publishing import TOKEN
from tests.support.saving import lines, message
from workflows.saving import STREAM_WORKFLOW

HISTORIES: Final = Path(__file__).parent / "histories"
ROOT: Final = Path(__file__).resolve().parents[2]

TOPIC: Final = "A canary of a topic"
SOURCE: Final = "# Lighthouses\n\n" + "\n\n".join(
    f"## Part {number}\n\nThe canary warden lights lantern {number} at dusk. Lantern {number} burns until sunrise. "
    f"Ships steer by lantern number {number}, and count its flashes."
    for number in range(1, 9)
)
CANARIES: Final = (TOKEN, "canary", "warden", "lantern", BAD_KEY)

Record = list[WorkflowHistory]
QUOTA: Final = ProviderError("quota used up", code="E.OPENAI.QUOTA", outcome=Outcome.REJECTED, retryable=False)


async def start(courses: Courses, **changes: Any) -> JobRef:
    """A course on canaries."""
    sources = [{"name": "lighthouses.md", "text": SOURCE}]
    return await courses.start(topic=TOPIC, audience=TOPIC, sources=sources, **changes)


async def histories_of(courses: Courses, job: JobRef) -> Record:
    """The history of a job's workflow, and those of its children."""
    main = await courses.workflow(job).fetch_history()
    started = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED
    children = [
        event.child_workflow_execution_started_event_attributes.workflow_execution.workflow_id
        for event in main.events
        if event.event_type == started
    ]
    return [main, *[await courses.client.get_workflow_handle(child).fetch_history() for child in children]]


async def noop(courses: Courses) -> Record:
    """The smallest job."""
    job = await courses.start_kind("diagnostics.noop", {})
    await courses.until_status(job, "succeeded")
    return await histories_of(courses, job)


async def succeeded(courses: Courses) -> Record:
    """Two modules that pass slots to each other."""
    job = await start(courses, modules=2, lessons=3)
    await courses.until_status(job, "succeeded")
    return await histories_of(courses, job)


async def paused(courses: Courses) -> Record:
    """Paused between lessons, and resumed."""
    courses.model.open.clear()
    job = await start(courses, modules=2, lessons=3)
    await courses.until_asked(2)
    await courses.act(job, JobAction.PAUSE)
    courses.model.open.set()
    await courses.until_paused(job, "/module-01")
    await courses.act(job, JobAction.RESUME)
    await courses.until_status(job, "succeeded")
    return await histories_of(courses, job)


async def failed(courses: Courses) -> Record:
    """A lesson fails for good while another module has one in progress."""
    job = await _fail(courses)
    return await histories_of(courses, job)


async def retried(courses: Courses) -> Record:
    """The second attempt after a failure."""
    job = await _fail(courses)
    await courses.act(job, JobAction.RETRY)
    await courses.until_status(job, "succeeded")
    return await histories_of(courses, job)


async def _fail(courses: Courses) -> JobRef:
    courses.model.open.clear()
    courses.model.failing_lesson, courses.model.fault = 2, QUOTA
    job = await start(courses, modules=2, lessons=1)
    await until_signaled(courses.client, f"{job.workflow_id}/module-01", "stop", or_closed=True)
    courses.model.open.set()
    await courses.until_status(job, "failed")
    courses.model.fault = None
    return job


async def canceled(courses: Courses) -> Record:
    """Canceled in the middle of lessons."""
    courses.model.open.clear()
    job = await start(courses, modules=2, lessons=2)
    await courses.until_asked(2)
    await courses.act(job, JobAction.CANCEL)
    await courses.until_status(job, "canceled")
    courses.model.open.set()
    return await histories_of(courses, job)


async def unauthorised(courses: Courses) -> Record:
    """A provider that quotes our key when it refuses it."""
    job = await start(courses, provider="openai")
    await courses.until_status(job, "failed")
    return await histories_of(courses, job)


async def crashed(courses: Courses) -> Record:
    """A fault of ours that quotes the source; it would be retried, so the job is canceled."""
    courses.model.answers["outline"] = ValueError(SOURCE[:100])
    job = await start(courses)
    await courses.until(lambda: courses.model.asked.count("outline") >= 2)
    await courses.act(job, JobAction.CANCEL)
    await courses.until_status(job, "canceled")
    return await histories_of(courses, job)


async def imported(courses: Courses) -> Record:
    """A file of records, one of which is not acceptable, and the stream that brings them home."""
    records = [message(content=f"{TOPIC} {number}", dialog_id="canary", user_id="warden") for number in range(20)]
    artifacts = ArtifactService(courses.database, courses.store, max_bytes=1_000_000)
    file = await artifacts.upload(
        courses.tenant_id, _once(lines(records) + b"\nlantern"), name="canary.ndjson", media_type="text/plain"
    )
    job = await courses.start_kind("saving.import", {"collection": "messages", "artifact_id": str(file.id)})
    stream = StreamInput(collection="messages", shard=0, flush_seconds=0.05, idle_seconds=1.0)
    handle = await courses.client.start_workflow(
        STREAM_WORKFLOW, stream, id=f"recorded/{job.job_id}", task_queue=courses.task_queue
    )
    while not await _is_done(courses, job):
        await handle.signal("wake", True)
        await asyncio.sleep(0.2)
    await courses.until_status(job, "succeeded")
    await handle.result()
    return [*await histories_of(courses, job), await handle.fetch_history()]


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _is_done(courses: Courses, job: JobRef) -> bool:
    return bool((await job_row(courses.database, job)).status == "succeeded")


SCENARIOS: Final[dict[str, Callable[[Courses], Awaitable[Record]]]] = {
    **{
        scenario.__name__: scenario
        for scenario in (noop, succeeded, paused, failed, retried, canceled, unauthorised, crashed, imported, *MORE)
    },
    **publishing.SCENARIOS,
    **approvals.SCENARIOS,
    **sections.SCENARIOS,
    **videos.SCENARIOS,
    **evaluation.SCENARIOS,
}


@asynccontextmanager
async def rejecting_model() -> AsyncIterator[OpenAILanguageModel]:
    """The OpenAI gateway with a key that its server does not take."""
    timeouts = HttpTimeouts(connect=5, read=5, write=5, pool=5)
    async with (
        StandInOpenAI() as server,
        create_http_client(timeout=timeouts, proxy=None, user_agent="longhaul-test") as http,
    ):
        yield model_with_key(http, server.base_url)


def model_with_key(http: httpx.AsyncClient, base_url: str) -> OpenAILanguageModel:
    """The gateway with the canary for a key."""
    free = {"input_usd": 0, "cached_input_usd": 0, "output_usd": 0}
    return OpenAILanguageModel(
        client=http,
        base_url=base_url,
        api_key=BAD_KEY,
        default_model="gpt-x",
        prices={"gpt-x": Price.model_validate(free)},
        can_look_up=True,
    )


# --- files ------------------------------------------------------------------------------------------


def file_name(scenario: str, number: int, history: WorkflowHistory) -> str:
    """``failed.2.CourseModule.json``."""
    return f"{scenario}.{number}.{workflow_type(history)}.json"


def workflow_type(history: WorkflowHistory) -> str:
    """The name of the workflow."""
    return history.events[0].workflow_execution_started_event_attributes.workflow_type.name


def to_document(history: WorkflowHistory) -> dict[str, Any]:
    """A history as it is committed: without the names of this machine."""
    document: dict[str, Any] = _without_machine(history.to_json_dict())
    return {"workflow_id": history.workflow_id, **document}


def _without_machine(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "recorder" if key == "identity" else _without_machine(item)
            for key, item in value.items()
            if key != "stackTrace"
        }
    if isinstance(value, list):
        return [_without_machine(item) for item in value]
    return value


def from_document(document: dict[str, Any]) -> WorkflowHistory:
    """A committed history."""
    return WorkflowHistory.from_json(document["workflow_id"], {"events": document["events"]})


def committed() -> dict[str, WorkflowHistory]:
    """Every committed history by its file's name."""
    return {
        path.name: from_document(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(HISTORIES.glob("*.json"))
    }


async def record(names: Collection[str]) -> None:
    """Play scenarios and write their histories."""
    HISTORIES.mkdir(exist_ok=True)
    for name in names:
        for old in HISTORIES.glob(f"{name}.*.json"):
            old.unlink()
    with tempfile.TemporaryDirectory(prefix="longhaul-record-") as name:
        folder = Path(name)
        postgres = EmbeddedPostgres(folder / "postgres")
        temporal = EmbeddedTemporal(
            folder / "temporal", port=free_port(), ui_port=None, search_attributes=SEARCH_ATTRIBUTES
        )
        postgres.start()
        temporal.start()
        try:
            migrate(postgres.superuser_url, profile="development")
            await _record_on(postgres, temporal, folder, names)
        finally:
            temporal.stop()
            postgres.stop()


async def _record_on(
    postgres: EmbeddedPostgres, temporal: EmbeddedTemporal, folder: Path, names: Collection[str]
) -> None:
    database = create_database(
        postgres.runtime_url, pool_size=10, statement_timeout_seconds=15, application_name="longhaul-record"
    )
    client = await connect(temporal.address, namespace="default", converter=create_data_converter(None), lazy=False)
    store = create_artifact_store((folder / "artifacts").as_uri())
    tenant_id = new_id()
    async with database.system() as connection:
        await TenantRepository(connection).add(tenant_id=tenant_id, name="recorder")
    for name in names:
        scenario = SCENARIOS[name]
        async with (
            rejecting_model() as model,
            serving_courses(client, database, store, tenant_id, more_models=[model]) as courses,
        ):
            for number, history in enumerate(await scenario(courses), start=1):
                path = HISTORIES / file_name(name, number, history)
                path.write_text(json.dumps(to_document(history), indent=1, sort_keys=True) + "\n", encoding="utf-8")
                sys.stdout.write(f"{path.relative_to(ROOT)}: {len(history.events)} events\n")
    await database.close()


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:] or SCENARIOS))
