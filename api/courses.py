"""The documents of courses, from rows to what is encoded."""

from typing import Any

from api.documents import Links
from domain.course_graph import TreeNode
from repositories.rows import AnyRow
from services.courses import CourseView, VersionView


def course_summary(row: AnyRow, links: Links) -> dict[str, Any]:
    """A course without its tree."""
    return {
        "id": row.id,
        "title": row.title,
        "latest_version": row.latest_version or None,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "url": f"{links.api}/courses/{row.id}",
        "job_url": links.job(row.id),
    }


def course_document(view: CourseView, links: Links) -> dict[str, Any]:
    """A course with the tree that is worked on."""
    return {
        **course_summary(view.course, links),
        "status": view.status,
        "tree": [node_document(node, links) for node in view.tree],
    }


def node_document(node: TreeNode, links: Links) -> dict[str, Any]:
    """A node as some revision of it stands."""
    return {
        "node": node.key,
        "kind": node.kind,
        "title": node.title,
        "revision_id": node.revision_id,
        "input_hash": node.input_hash,
        "content_sha256": node.content_sha256,
        "status": node.status,
        "calls": node.calls,
        "cost_usd": f"{node.cost_usd:f}",
        "job_id": node.job_id,
        "made_at": node.made_at,
        "content_url": None if node.artifact_id is None else links.artifact(node.artifact_id),
    }


def version_summary(row: AnyRow, links: Links) -> dict[str, Any]:
    """A version without its nodes."""
    return {
        "version": row.number,
        "reason": row.reason,
        "note": row.note,
        "content_sha256": row.content_sha256,
        "job_id": row.job_id,
        "created_at": row.created_at,
        "url": f"{links.api}/courses/{row.course_id}/versions/{row.number}",
    }


def version_document(view: VersionView, links: Links) -> dict[str, Any]:
    """A version with its nodes and what was rendered of it."""
    return {
        **version_summary(view.version, links),
        "tree": [node_document(node, links) for node in view.tree],
        "exports": [
            {"export": row.export, "profile": row.profile, "url": links.artifact(row.artifact_id)}
            for row in view.exports
        ],
    }
