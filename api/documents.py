"""The job document: from a row to the bytes of its JSON, and to its ETag."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import orjson

from api.workers import ServedQueues
from domain.jobs import TERMINAL, JobStatus, WaitingKind, workflow_id
from repositories.rows import AnyRow

_OPTIONS: Final = orjson.OPT_UTC_Z
# What a missing worker explains; a job that waits for a person or a date would also wait with a worker.
_EXPLAINED_BY_WORKER: Final = frozenset({None, WaitingKind.RETRY, WaitingKind.PROVIDER})


def encode(document: Any) -> bytes:
    """JSON with moments in UTC, ending in Z."""
    return orjson.dumps(document, option=_OPTIONS)


@dataclass(frozen=True, slots=True)
class Links:
    """Where things are found, from outside."""

    api: str
    temporal_workflows: str

    def job(self, job_id: UUID, part: str = "") -> str:
        """The address of a job, or of a part of it (``/events``)."""
        return f"{self.api}/jobs/{job_id}{part}"

    def artifact(self, artifact_id: UUID) -> str:
        """The address of an artifact's bytes."""
        return f"{self.api}/artifacts/{artifact_id}"

    def batch(self, collection: str, batch_id: UUID) -> str:
        """The address of a batch of records."""
        return f"{self.api}/records/{collection}/batches/{batch_id}"

    def workflow(self, kind: str, job_id: UUID) -> str:
        """The job's workflow in the Temporal UI."""
        return f"{self.temporal_workflows}/{quote(workflow_id(kind, job_id), safe='')}"

    def temporal_schedule(self, name: str) -> str:
        """A schedule in the Temporal UI."""
        return f"{self.temporal_workflows.removesuffix('/workflows')}/schedules/{quote(name, safe='')}"


def create_links(*, base_url: str, ui_url: str, namespace: str) -> Links:
    """Links below these addresses."""
    return Links(
        api=f"{base_url.rstrip('/')}/api/v1",
        temporal_workflows=f"{ui_url.rstrip('/')}/namespaces/{quote(namespace, safe='')}/workflows",
    )


def job_etag(row: AnyRow, served: ServedQueues) -> str:
    """The ETag of a job's document: its version, and whether it says that a worker is missing.

    Asks for no more than ``get_version_or_none`` returns, so it may say ``-w`` of a document that waits for something
    else; that costs a client one look more, never a change less.
    """
    return f'"{row.version}-w"' if is_abandoned(row, served) else f'"{row.version}"'


def is_abandoned(row: AnyRow, served: ServedQueues) -> bool:
    """Whether the job would move on if only a worker were there."""
    return row.admitted_at is not None and row.status not in TERMINAL and served.is_abandoned(row.task_queue)


def job_document(row: AnyRow, links: Links, served: ServedQueues) -> dict[str, Any]:
    """The document of a job, ready to be encoded."""
    job_id: UUID = row.id
    result = links.job(job_id, "/result") if row.status == JobStatus.SUCCEEDED else None
    return {
        "id": job_id,
        "kind": row.kind,
        "status": row.status,
        "progress": row.progress,
        "steps": [_step(step) for step in row.steps or ()],
        "waiting_on": _waiting_on(row, served),
        "result_url": result,
        "error_code": row.error_code,
        "error": row.error,
        "cost": {"usd": usd(row.cost_usd), "input_tokens": row.input_tokens, "output_tokens": row.output_tokens},
        "attempt": row.attempt,
        "labels": row.labels,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "updated_at": row.updated_at,
        "request_id": row.request_id,
        "links": {
            "self": links.job(job_id),
            "events": links.job(job_id, "/events"),
            "result": result,
            "temporal_ui": links.workflow(row.kind, job_id),
        },
    }


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    # PostgreSQL writes moments inside JSON with an offset; everywhere else they end in Z.
    return {
        name: value[:-6] + "Z" if name.endswith("_at") and value is not None and value.endswith("+00:00") else value
        for name, value in step.items()
    }


def _waiting_on(row: AnyRow, served: ServedQueues) -> dict[str, Any] | None:
    waiting: dict[str, Any] | None = row.waiting_on
    if is_abandoned(row, served) and (waiting or {}).get("kind") in _EXPLAINED_BY_WORKER:
        return {
            "kind": WaitingKind.WORKER,
            "detail": f"no worker serves the task queue {row.task_queue}; the job goes on when one is there",
            # The same for everybody who asks, as long as nothing happens.
            "since": row.updated_at,
            "until": None,
        }
    return waiting


def usd(amount: Decimal) -> str:
    """Dollars as a plain decimal number without idle zeros."""
    return f"{amount.normalize():f}"


def event_document(row: AnyRow) -> dict[str, Any]:
    """An event of a job, ready to be encoded."""
    return {"seq": row.seq, "type": row.type, "at": row.at, "data": row.data}
