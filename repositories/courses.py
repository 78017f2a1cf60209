"""Courses: revisions of their nodes, the tree that is worked on, and versions."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Text, Uuid, bindparam, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.database import Statement
from core.ids import new_id
from domain.course_graph import NodeMade, TreeNode, reading_order
from domain.errors import NotFound
from domain.jobs import JobRef
from repositories.rows import AnyRow
from repositories.tables import course_exports, course_nodes, course_versions, courses, node_revisions

Reason = Literal["made", "section", "mix", "rollback", "edit"]
"""Why there is another version of a course."""

# Of a job that is still ours: this runs beside statements that are fenced on their own.
_open: Final = text(
    """
    INSERT INTO courses AS course (id, tenant_id, title, corpus_id)
    SELECT :course_id, tenant_id, :title, :corpus_id FROM jobs
    WHERE id = :job_id AND attempt = :attempt AND finished_at IS NULL
    ON CONFLICT (id) DO UPDATE SET title = excluded.title, corpus_id = excluded.corpus_id, updated_at = now()
    WHERE (course.title, course.corpus_id) IS DISTINCT FROM (excluded.title, excluded.corpus_id)
    """
).bindparams(
    bindparam("course_id", type_=Uuid),
    bindparam("job_id", type_=Uuid),
    bindparam("corpus_id", type_=Uuid),
    bindparam("title", type_=Text),
)

_GIVEN: Final = """
    given AS (
        SELECT * FROM jsonb_to_recordset(:nodes) AS (
            id uuid, whole_id uuid, key text, kind text, title text, input_hash text, content_sha256 text,
            artifact_id uuid, status text, calls int, cost_usd numeric)
    )
"""
_INSERT: Final = """
    INSERT INTO node_revisions (id, whole_id, key, kind, title, input_hash, content_sha256, artifact_id, status, calls,
                                cost_usd, tenant_id, course_id, job_id)
"""
_VALUES: Final = """
    given.id, given.whole_id, given.key, given.kind, given.title, given.input_hash, given.content_sha256,
    given.artifact_id, given.status, given.calls, given.cost_usd
"""

# Revisions of the job that makes the course stand in the tree at once, but never instead of what a section job or a
# person has put there meanwhile, nor beside another text than they were made from; only the outline is theirs alone.
# Those of a section job wait for ``apply``.
_add_revisions: Final = text(
    f"""
    WITH {_GIVEN}, job AS (
        SELECT tenant_id, id AS job_id FROM jobs WHERE id = :job_id AND attempt = :attempt AND finished_at IS NULL
    ), whole AS (
        {_INSERT}
        SELECT {_VALUES}, job.tenant_id, :course_id, job.job_id FROM given, job WHERE whole_id IS NULL
        ON CONFLICT (tenant_id, course_id, job_id, key, input_hash) WHERE whole_id IS NULL DO NOTHING
        RETURNING id, key
    ), parts AS (
        {_INSERT}
        SELECT {_VALUES}, job.tenant_id, :course_id, job.job_id
        FROM job, given JOIN whole ON whole.id = given.whole_id
    ), standing AS (
        SELECT id, key FROM whole
        UNION ALL
        SELECT made.id, made.key
        FROM node_revisions made JOIN given USING (key, input_hash)
        WHERE made.course_id = :course_id AND made.job_id = :job_id AND made.whole_id IS NULL AND given.whole_id IS NULL
    ), above AS (
        -- Locked: whoever replaces this text waits, and then sees what was put below it.
        SELECT revision_id FROM course_nodes WHERE course_id = :course_id AND key = :lesson FOR SHARE
    ), fitting AS (
        SELECT FROM above JOIN node_revisions lesson ON lesson.id = above.revision_id
        WHERE lesson.artifact_id = :made_from OR EXISTS (
            SELECT FROM node_revisions mine
            WHERE mine.course_id = :course_id AND mine.job_id = :job_id AND mine.key = lesson.key
              AND mine.content_sha256 = lesson.content_sha256)
    )
    INSERT INTO course_nodes AS node (tenant_id, course_id, key, revision_id)
    SELECT job.tenant_id, :course_id, standing.key, standing.id FROM standing, job
    WHERE :job_id = :course_id AND (EXISTS (SELECT FROM fitting) OR NOT EXISTS (SELECT FROM above))
    ON CONFLICT (tenant_id, course_id, key) DO UPDATE SET revision_id = excluded.revision_id
    WHERE node.key = 'outline'
       OR (SELECT job_id FROM node_revisions WHERE id = node.revision_id) IS NOT DISTINCT FROM :course_id
    """  # noqa: S608 - a constant of this module
).bindparams(
    bindparam("nodes", type_=JSONB),
    bindparam("course_id", type_=Uuid),
    bindparam("job_id", type_=Uuid),
    bindparam("lesson", type_=Text),
    bindparam("made_from", type_=Uuid),
)

_add_by_hand: Final = text(
    f"""
    WITH {_GIVEN}
    {_INSERT}
    SELECT {_VALUES}, course.tenant_id, course.id, CAST(:job_id AS uuid) FROM given, courses course
    WHERE course.id = :course_id
    """  # noqa: S608 - a constant of this module
).bindparams(bindparam("nodes", type_=JSONB), bindparam("course_id", type_=Uuid), bindparam("job_id", type_=Uuid))


def course_statement(job: JobRef, course_id: UUID, *, title: str, corpus_id: UUID) -> Statement:
    """The statement that makes sure of a course's row, with its present title. Nothing where the job has moved on."""
    return _open, {
        "course_id": course_id, "job_id": job.job_id, "attempt": job.attempt, "title": title, "corpus_id": corpus_id,
    }  # fmt: skip


def revisions_statement(
    job: JobRef, course_id: UUID, nodes: Sequence[NodeMade], *, made_from: UUID | None = None
) -> Statement:
    """One SQL statement that writes down revisions of nodes; run it in the transaction that finishes their part.

    Nodes without an artifact of their own (modules, blocks, single slides) are parts of the nearest node before them
    in ``nodes`` that has one, and come and go with it. Made by the job of the course itself they stand in its working
    tree at once; made by another job they wait until that job applies them. Repeating the statement changes nothing,
    nor does it do anything where the job is finished or a newer attempt has taken over.

    What belongs to a lesson (all of ``nodes`` to the same one) stands in the tree only below a text that it was made
    from: one that the job itself has written, or the lesson behind the artifact ``made_from``.
    """
    lesson, below_it, _ = nodes[0].key.partition("/")
    return _add_revisions, {
        "course_id": course_id, "job_id": job.job_id, "attempt": job.attempt, "nodes": _given(nodes),
        "lesson": lesson if below_it else "", "made_from": made_from,
    }  # fmt: skip


def revision_statement(job: JobRef, course_id: UUID, node: NodeMade) -> Statement:
    """As ``revisions_statement``, for one node that has an artifact and no parts."""
    return revisions_statement(job, course_id, [node])


def _given(nodes: Sequence[NodeMade]) -> list[dict[str, Any]]:
    """Revisions as JSON; each gets an id, and parts that of their whole."""
    rows, whole = [], None
    for node in nodes:
        made = new_id()
        if node.artifact_id is not None:
            whole = made
        assert whole is not None, "a part comes after its whole"
        rows.append(
            {
                **node.model_dump(mode="json", include=set(NodeMade.model_fields)),
                "id": str(made),
                "whole_id": None if whole == made else str(whole),
            }
        )
    return rows


_revision = tuple(column for column in node_revisions.c if column.name not in {"tenant_id", "course_id"})


class CourseRepository:
    """Courses of one tenant."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- questions ----------------------------------------------------------------------------------

    async def get(self, course_id: UUID) -> AnyRow:
        """The course's row. Raises NotFound."""
        return await self._one(select(courses).where(courses.c.id == course_id), "there is no such course")

    async def lock(self, course_id: UUID) -> AnyRow:
        """The course's row, locked: whoever changes its tree or its versions waits for us. Raises NotFound."""
        query = select(courses).where(courses.c.id == course_id).with_for_update(key_share=True)
        return await self._one(query, "there is no such course")

    async def get_many(self, *, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """Courses, newest first, older than the course ``before``."""
        query = select(courses)
        if before is not None:
            query = query.where(courses.c.id < before)
        return (await self._connection.execute(query.order_by(courses.c.id.desc()).limit(limit))).all()

    async def get_tree(self, course_id: UUID) -> tuple[TreeNode, ...]:
        """The working tree in reading order, parts included; empty where there is no such course."""
        return await self.get_revisions(course_id, await self._get_standing_ids(course_id))

    async def get_keys(self, course_id: UUID) -> set[str]:
        """The keys of the whole nodes of the working tree; empty where there is no such course."""
        query = select(course_nodes.c.key).where(course_nodes.c.course_id == course_id)
        return set((await self._connection.execute(query)).scalars())

    async def get_revisions(
        self, course_id: UUID, whole_ids: Sequence[UUID], *, with_parts: bool = True
    ) -> tuple[TreeNode, ...]:
        """Revisions of whole nodes by id, in reading order of their keys."""
        wanted = list(whole_ids)
        mine = select(*_revision).where(node_revisions.c.course_id == course_id)
        rows = [*await self._connection.execute(mine.where(node_revisions.c.id.in_(wanted)))]
        if with_parts:
            rows += await self._connection.execute(mine.where(node_revisions.c.whole_id.in_(wanted)))
        return tuple(sorted((_node(row) for row in rows), key=lambda node: reading_order(node.key)))

    async def get_standing(self, course_id: UUID, keys: Iterable[str]) -> dict[str, TreeNode]:
        """What stands in the working tree under the keys of these whole nodes; without their parts."""
        query = (
            select(*_revision)
            .join(course_nodes, course_nodes.c.revision_id == node_revisions.c.id)
            .where(course_nodes.c.course_id == course_id, course_nodes.c.key.in_(list(keys)))
        )
        return {row.key: _node(row) for row in await self._connection.execute(query)}

    async def get_made_by(self, course_id: UUID, job_id: UUID) -> tuple[TreeNode, ...]:
        """Every whole revision that a job has made of a course, oldest first."""
        query = select(*_revision).where(
            node_revisions.c.course_id == course_id,
            node_revisions.c.job_id == job_id,
            node_revisions.c.whole_id.is_(None),
        )
        return tuple(_node(row) for row in await self._connection.execute(query.order_by(node_revisions.c.id)))

    async def get_same_or_none(self, course_id: UUID, node: NodeMade) -> UUID | None:
        """The revision that was put together by hand from the same things, where there is one."""
        query = select(node_revisions.c.id).where(
            node_revisions.c.course_id == course_id,
            node_revisions.c.key == node.key,
            node_revisions.c.input_hash == node.input_hash,
            node_revisions.c.job_id.is_(None),
            node_revisions.c.whole_id.is_(None),
        )
        found: UUID | None = (await self._connection.execute(query.limit(1))).scalar_one_or_none()
        return found

    async def get_makers(self, course_id: UUID) -> Sequence[UUID]:
        """The jobs that have made something of a course."""
        query = (
            select(node_revisions.c.job_id)
            .where(node_revisions.c.course_id == course_id, node_revisions.c.job_id.is_not(None))
            .distinct()
        )
        return (await self._connection.execute(query)).scalars().all()

    async def get_by_artifact(self, course_id: UUID, artifact_ids: Iterable[UUID]) -> dict[UUID, UUID]:
        """The revisions behind which these artifacts lie, by artifact."""
        query = select(node_revisions.c.artifact_id, node_revisions.c.id).where(
            node_revisions.c.course_id == course_id, node_revisions.c.artifact_id.in_(list(artifact_ids))
        )
        return {row.artifact_id: row.id for row in await self._connection.execute(query.order_by(node_revisions.c.id))}

    async def get_version(self, course_id: UUID, number: int) -> AnyRow:
        """One version. Raises NotFound."""
        query = select(course_versions).where(
            course_versions.c.course_id == course_id, course_versions.c.number == number
        )
        return await self._one(query, f"there is no version {number} of this course")

    async def get_version_tree(self, course_id: UUID, number: int, *, with_parts: bool = True) -> tuple[TreeNode, ...]:
        """The nodes of a version in reading order. Raises NotFound."""
        version = await self.get_version(course_id, number)
        revisions = [UUID(revision) for revision in version.nodes.values()]
        return await self.get_revisions(course_id, revisions, with_parts=with_parts)

    async def get_versions(self, course_id: UUID, *, limit: int, before: int | None) -> Sequence[AnyRow]:
        """Versions without their nodes, newest first, older than the version ``before``."""
        shown = [column for column in course_versions.c if column.name != "nodes"]
        query = select(*shown).where(course_versions.c.course_id == course_id)
        if before is not None:
            query = query.where(course_versions.c.number < before)
        return (await self._connection.execute(query.order_by(course_versions.c.number.desc()).limit(limit))).all()

    async def get_exports(self, course_id: UUID, number: int) -> Sequence[AnyRow]:
        """What was rendered of a version."""
        query = select(course_exports).where(course_exports.c.course_id == course_id, course_exports.c.number == number)
        return (await self._connection.execute(query.order_by(course_exports.c.export, course_exports.c.profile))).all()

    # --- changes ------------------------------------------------------------------------------------

    async def open(self, job: JobRef, course_id: UUID, *, title: str, corpus_id: UUID) -> None:
        """Make sure of the course's row, with its present title."""
        await self._connection.execute(*course_statement(job, course_id, title=title, corpus_id=corpus_id))

    async def add_revisions(
        self, course_id: UUID, nodes: Sequence[NodeMade], *, job_id: UUID | None = None
    ) -> dict[str, UUID]:
        """Write down revisions that no step of a job makes: edits by hand (no job), mixed decks.

        Parts as in ``revisions_statement``. They stand in no tree before ``point``. The ids of whole nodes by key.
        """
        rows = _given(nodes)
        await self._connection.execute(_add_by_hand, {"nodes": rows, "course_id": course_id, "job_id": job_id})
        return {row["key"]: UUID(row["id"]) for row in rows if row["whole_id"] is None}

    async def point(self, tenant_id: UUID, course_id: UUID, revisions: Mapping[str, UUID]) -> None:
        """Let these revisions stand in the working tree, whatever stood there before. Lock the course first."""
        if not revisions:
            return
        rows = [
            {"tenant_id": tenant_id, "course_id": course_id, "key": key, "revision_id": revision}
            for key, revision in sorted(revisions.items())
        ]
        adding = pg_insert(course_nodes).values(rows)
        await self._connection.execute(
            adding.on_conflict_do_update(
                index_elements=["tenant_id", "course_id", "key"], set_={"revision_id": adding.excluded.revision_id}
            )
        )

    async def drop(self, course_id: UUID, keys: Iterable[str]) -> None:
        """Let nothing stand in the working tree under these keys. Lock the course first."""
        await self._connection.execute(
            course_nodes.delete().where(course_nodes.c.course_id == course_id, course_nodes.c.key.in_(list(keys)))
        )

    async def set_tree(self, tenant_id: UUID, course_id: UUID, revisions: Mapping[str, UUID]) -> None:
        """Let exactly these revisions stand in the working tree. Lock the course first."""
        await self._connection.execute(
            course_nodes.delete().where(course_nodes.c.course_id == course_id, course_nodes.c.key.not_in(revisions))
        )
        await self.point(tenant_id, course_id, revisions)

    async def snapshot(self, course_id: UUID, job: JobRef | None, *, reason: Reason, note: str | None = None) -> int:
        """Freeze the working tree as the next version, and tell its number.

        A job makes at most one version of a course; asked again, it gets the number of that one. Raises NotFound.
        """
        course = await self.lock(course_id)
        if job is not None:
            earlier = select(course_versions.c.number).where(
                course_versions.c.course_id == course_id, course_versions.c.job_id == job.job_id
            )
            made: int | None = (await self._connection.execute(earlier)).scalar_one_or_none()
            if made is not None:
                return made
        number: int = course.latest_version + 1
        wholes = await self.get_revisions(course_id, await self._get_standing_ids(course_id), with_parts=False)
        version = {
            "tenant_id": course.tenant_id,
            "course_id": course_id,
            "number": number,
            "nodes": {node.key: str(node.revision_id) for node in wholes},
            "content_sha256": tree_sha256(wholes),
            "reason": reason,
            "note": note,
            "job_id": job and job.job_id,
        }
        await self._connection.execute(insert(course_versions).values(version))
        await self._connection.execute(
            update(courses).where(courses.c.id == course_id).values(latest_version=number, updated_at=func.now())
        )
        return number

    async def add_export(
        self, tenant_id: UUID, course_id: UUID, number: int, *, export: str, profile: str, artifact_id: UUID
    ) -> None:
        """A version was rendered; the first rendering of each form stands, since the next has the same bytes."""
        row = {
            "tenant_id": tenant_id, "course_id": course_id, "number": number,
            "export": export, "profile": profile, "artifact_id": artifact_id,
        }  # fmt: skip
        await self._connection.execute(pg_insert(course_exports).values(row).on_conflict_do_nothing())

    async def _get_standing_ids(self, course_id: UUID) -> Sequence[UUID]:
        query = select(course_nodes.c.revision_id).where(course_nodes.c.course_id == course_id)
        return (await self._connection.execute(query)).scalars().all()

    async def _one(self, query: Any, otherwise: str) -> AnyRow:
        found: AnyRow | None = (await self._connection.execute(query)).one_or_none()
        if found is None:
            raise NotFound(otherwise)
        return found


def tree_sha256(nodes: Sequence[NodeMade]) -> str:
    """The checksum of what a tree says, whoever made its nodes and whenever."""
    lines = sorted(f"{node.key}={node.content_sha256}" for node in nodes)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _node(row: AnyRow) -> TreeNode:
    values = row._asdict()
    return TreeNode.model_validate({"revision_id": values.pop("id"), **values})
