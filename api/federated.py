"""The documents of federated learning: models, versions, decisions, rounds."""

from typing import Any

from api.documents import Links
from repositories.rows import AnyRow
from services.federated.registry import ShownModel


def model_summary(row: AnyRow) -> dict[str, Any]:
    """A model without its lineage."""
    return {
        "name": row.name,
        "family": row.family,
        "judged_by": row.holdout_sha256,
        "head_id": row.head_id,
        "versions_made": row.versions,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def model_document(shown: ShownModel, links: Links) -> dict[str, Any]:
    """A model with its latest versions and decisions."""
    return {
        **model_summary(shown.row),
        "head": None if shown.head is None else _version(shown.head, links),
        "tensors": {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in shown.row.schema.items()},
        "versions": [_version(row, links) for row in shown.versions],
        "decisions": [_decision(row) for row in shown.decisions],
    }


def _version(row: AnyRow, links: Links) -> dict[str, Any]:
    return {
        "id": row.id,
        "version": row.number,
        "parent": row.parent_id,
        "status": row.status,
        "reason": row.reason,
        "sha256": row.sha256,
        "bytes": row.bytes,
        "url": f"{links.api}/federated/blobs/{row.sha256}",
        "metrics": row.metrics,
        "job_id": row.job_id,
        "round": row.round,
        "created_at": row.created_at,
    }


def _decision(row: AnyRow) -> dict[str, Any]:
    return {
        "action": row.action,
        "version_id": row.version_id,
        "head_before": row.head_before,
        "head_after": row.head_after,
        "actor": row.actor,
        "reason": row.reason,
        "data": row.data,
        "at": row.at,
    }


def round_document(row: AnyRow) -> dict[str, Any]:
    """A round with the version it has made, if it has."""
    return {
        "number": row.number,
        "state": row.state,
        "reason": row.reason,
        "goal": row.goal,
        "quorum": row.quorum,
        "asked": row.selected,
        "leased": row.handed_out,
        "accepted": row.accepted,
        "refused": row.refused,
        "deadline": row.deadline,
        "opened_at": row.opened_at,
        "closed_at": row.closed_at,
        "finished_at": row.finished_at,
        "version": row.version,
        "sha256": row.sha256,
        "metrics": row.metrics or {},
        "detail": row.detail,
    }
