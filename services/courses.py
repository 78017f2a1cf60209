"""Courses as people see them: trees and versions, what is different between two, and one made out of several."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import orjson

from activities.generation.revisions import findings_with_block
from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import Artifact, ArtifactRole
from domain.course_diff import CourseDiff, Piece, compare, pieces_of_document
from domain.course_graph import (
    NodeKey,
    NodeKind,
    NodeMade,
    TreeNode,
    belongs_to,
    content_sha256,
    kind_of,
    number_of,
    place_of,
    whole_of,
)
from domain.course_nodes import lesson_nodes
from domain.errors import FieldFault, InvalidInput, NotFound
from domain.generation import Lesson, LessonContent, SlideDeck
from domain.lesson_parts import WrittenSlides, slides_nodes
from domain.model import Frozen
from rendering.course_diff import course_diff_html
from repositories.artifacts import ArtifactRepository
from repositories.courses import CourseRepository, Reason
from repositories.jobs import JobRepository
from repositories.rows import AnyRow

_READS_AT_ONCE: Final = 16
_WITH_WORDS: Final = frozenset({NodeKind.OUTLINE, NodeKind.LESSON, NodeKind.SLIDES, NodeKind.QUIZ})


@dataclass(frozen=True, slots=True)
class CourseView:
    """A course, the job that makes it, and the tree as it stands."""

    course: AnyRow
    status: str
    tree: tuple[TreeNode, ...]


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version with its nodes and what was rendered of it."""

    version: AnyRow
    tree: tuple[TreeNode, ...]
    exports: Sequence[AnyRow]


@dataclass(frozen=True, slots=True)
class Taken:
    """A node that is to be as it was in the version ``number``."""

    node: NodeKey
    number: int


@dataclass(frozen=True, slots=True)
class Made:
    """The version that a wish led to; not ``new`` where the course was so already."""

    view: VersionView
    new: bool


@dataclass(slots=True)
class _Selection:
    """Revisions chosen for a new version, by key, and documents put together for it that are in no version yet."""

    revisions: dict[str, UUID]
    documents: dict[str, Frozen]
    sources: dict[str, list[str]]


class CourseService:
    """Use cases on courses, for one tenant at a time. Nothing here is ever overwritten."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store

    # --- looking ------------------------------------------------------------------------------------

    async def list_all(self, tenant_id: UUID, *, limit: int, before: UUID | None) -> Sequence[AnyRow]:
        """Courses, newest first, older than ``before``."""
        async with self._database.tenant(tenant_id) as connection:
            return await CourseRepository(connection).get_many(limit=limit, before=before)

    async def get(self, tenant_id: UUID, course_id: UUID) -> CourseView:
        """A course with the tree that is worked on. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            courses = CourseRepository(connection)
            course = await courses.get(course_id)
            status = (await JobRepository(connection).get_result(course_id)).status
            return CourseView(course, status, await courses.get_tree(course_id))

    async def list_versions(
        self, tenant_id: UUID, course_id: UUID, *, limit: int, before: int | None
    ) -> Sequence[AnyRow]:
        """Versions, newest first, older than ``before``. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            courses = CourseRepository(connection)
            await courses.get(course_id)
            return await courses.get_versions(course_id, limit=limit, before=before)

    async def get_version(self, tenant_id: UUID, course_id: UUID, number: int) -> VersionView:
        """A version with its nodes and exports. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            return await _view(CourseRepository(connection), course_id, number)

    # --- comparing ----------------------------------------------------------------------------------

    async def compare(self, tenant_id: UUID, course_id: UUID, *, before: int, after: int) -> CourseDiff:
        """What is different between two versions. Raises NotFound."""
        async with self._database.tenant(tenant_id) as connection:
            courses = CourseRepository(connection)
            await courses.get(course_id)
            old = await courses.get_version_tree(course_id, before)
            new = await courses.get_version_tree(course_id, after)
        same = {(node.key, node.content_sha256) for node in old} & {(node.key, node.content_sha256) for node in new}
        changed = {
            node.revision_id: node
            for node in (*old, *new)
            if node.whole_id is None and (node.key, node.content_sha256) not in same
        }
        with_words = [node for node in changed.values() if node.kind in _WITH_WORDS]
        documents = await self._read_documents(tenant_id, with_words)
        return await asyncio.to_thread(_compare, old, new, changed.keys(), documents)

    async def compare_page(self, tenant_id: UUID, course_id: UUID, *, before: int, after: int) -> bytes:
        """The same as an HTML page. Raises NotFound."""
        diff = await self.compare(tenant_id, course_id, before=before, after=after)
        async with self._database.tenant(tenant_id) as connection:
            title = (await CourseRepository(connection).get(course_id)).title
        return await asyncio.to_thread(course_diff_html, diff, title=title, before=before, after=after)

    # --- new versions out of old ones ---------------------------------------------------------------

    async def roll_back(self, tenant_id: UUID, course_id: UUID, number: int, *, note: str | None) -> Made:
        """A new version that is as an earlier one was. Raises NotFound for the course, InvalidInput for the version."""
        await self._require(tenant_id, course_id)
        version = await self._version(tenant_id, course_id, number, "/version")
        chosen = _Selection({node.key: node.revision_id for node in version if node.whole_id is None}, {}, {})
        return await self._freeze(tenant_id, course_id, chosen, reason="rollback", note=note or f"as version {number}")

    async def mix(
        self, tenant_id: UUID, course_id: UUID, *, base: int, take: Sequence[Taken], note: str | None
    ) -> Made:
        """A new version that is ``base`` with some nodes as they are in others.

        A lesson brings what was made from it, a module its lessons; a block or a slide takes the same place in the
        lesson or deck of the base. Raises NotFound for the course, InvalidInput naming what cannot be taken.
        """
        await self._require(tenant_id, course_id)
        standing = await self._version(tenant_id, course_id, base, "/base")
        chosen = _Selection({node.key: node.revision_id for node in standing if node.whole_id is None}, {}, {})
        known = {node.revision_id: node for node in standing}
        for index, taken in enumerate(take):
            pointer = f"/take/{index}"
            offered = await self._version(tenant_id, course_id, taken.number, f"{pointer}/from")
            known |= {node.revision_id: node for node in offered}
            wholes = {node.key: node for node in offered if node.whole_id is None}
            if taken.node not in {node.key for node in offered} or kind_of(taken.node) is NodeKind.OUTLINE:
                fault = f"version {taken.number} has no such node, or it cannot be taken alone"
                raise InvalidInput("the versions cannot be mixed", faults=[FieldFault(f"{pointer}/node", fault)])
            if kind_of(taken.node) in {NodeKind.BLOCK, NodeKind.SLIDE}:
                await self._take_part(tenant_id, chosen, taken, known=known, wholes=wholes, pointer=f"{pointer}/node")
            else:
                _take_whole(chosen, wholes, taken.node)
        said = ", ".join(f"{taken.node} from {taken.number}" for taken in take)
        return await self._freeze(
            tenant_id, course_id, chosen, reason="mix", note=note or f"version {base} with {said}"[:2_000]
        )

    async def _take_part(
        self,
        tenant_id: UUID,
        chosen: _Selection,
        taken: Taken,
        *,
        known: Mapping[UUID, TreeNode],
        wholes: Mapping[str, TreeNode],
        pointer: str,
    ) -> None:
        """Put one block or slide into the lesson or deck that was chosen so far."""
        key = whole_of(taken.node)
        if key not in chosen.revisions:
            raise InvalidInput(
                "the versions cannot be mixed", faults=[FieldFault(pointer, "the base has nothing to put it into")]
            )
        kind = Lesson if kind_of(taken.node) is NodeKind.BLOCK else WrittenSlides
        wanted = [wholes[key]] if key in chosen.documents else [wholes[key], known[chosen.revisions[key]]]
        raw = await self._read_documents(tenant_id, wanted)
        there = chosen.documents.get(key) or kind.model_validate(raw[chosen.revisions[key]])
        theirs = kind.model_validate(raw[wholes[key].revision_id])
        put = _with_part(there, theirs, number_of(taken.node))
        if put is None:
            fault = "the base has too few of them to put it into the same place"
            raise InvalidInput("the versions cannot be mixed", faults=[FieldFault(pointer, fault)])
        chosen.documents[key] = put
        chosen.sources.setdefault(key, []).append(f"{taken.node}@{wholes[key].revision_id}")

    async def _freeze(self, tenant_id: UUID, course_id: UUID, chosen: _Selection, *, reason: Reason, note: str) -> Made:
        """The next version, unless the latest one says the same."""
        made = [await self._store_document(tenant_id, course_id, key, chosen) for key in chosen.documents]
        async with self._database.tenant(tenant_id) as connection:
            courses = CourseRepository(connection)
            course = await courses.lock(course_id)
            latest = await courses.get_version(course_id, course.latest_version)
            revisions = dict(chosen.revisions)
            for artifact, nodes in made:
                same = await courses.get_same_or_none(course_id, nodes[0])
                if same is None:
                    await ArtifactRepository(connection).add(artifact)
                    revisions |= await courses.add_revisions(course_id, nodes)
                else:
                    revisions[nodes[0].key] = same
            standing = {node.key: node.revision_id for node in await courses.get_tree(course_id) if not node.whole_id}
            if latest.nodes == {key: str(revision) for key, revision in revisions.items()} and standing == revisions:
                return Made(await _view(courses, course_id, course.latest_version), new=False)
            await courses.set_tree(tenant_id, course_id, revisions)
            number = await courses.snapshot(course_id, None, reason=reason, note=note)
            return Made(await _view(courses, course_id, number), new=True)

    async def _store_document(
        self, tenant_id: UUID, course_id: UUID, key: str, chosen: _Selection
    ) -> tuple[Artifact, list[NodeMade]]:
        document = chosen.documents[key]
        body = document.model_dump_json(indent=1).encode()
        artifact = Artifact(
            id=new_id(),
            tenant_id=tenant_id,
            job_id=course_id,
            name=f"mixed/{key.replace('/', '-')}.json",
            media_type="application/json",
            bytes=len(body),
            sha256=await self._store.put(tenant_id, body),
            role=ArtifactRole.INTERNAL,
        )
        made_of = content_sha256([str(chosen.revisions[key]), *chosen.sources[key]])
        if isinstance(document, Lesson):
            nodes = lesson_nodes(place_of(key)[0], document, input_hash=made_of, artifact_id=artifact.id)
        else:
            assert isinstance(document, WrittenSlides)
            lesson = key.partition("/")[0]
            title = document.deck.slides[0].title if document.deck else key
            nodes = slides_nodes(lesson, title, document, input_hash=made_of, artifact_id=artifact.id)
        # What it is put together from was paid for where it was made.
        return artifact, [node.model_copy(update={"calls": 0, "cost_usd": Decimal(0)}) for node in nodes]

    # --- reading ------------------------------------------------------------------------------------

    async def _require(self, tenant_id: UUID, course_id: UUID) -> None:
        async with self._database.tenant(tenant_id) as connection:
            await CourseRepository(connection).get(course_id)

    async def _version(self, tenant_id: UUID, course_id: UUID, number: int, pointer: str) -> tuple[TreeNode, ...]:
        try:
            async with self._database.tenant(tenant_id) as connection:
                return await CourseRepository(connection).get_version_tree(course_id, number)
        except NotFound as fault:
            raise InvalidInput("there is no such version", faults=[FieldFault(pointer, fault.detail)]) from None

    async def _read_documents(self, tenant_id: UUID, nodes: Sequence[TreeNode]) -> dict[UUID, Any]:
        """The JSON behind whole nodes, by revision."""
        wanted = [node for node in nodes if node.artifact_id is not None]
        async with self._database.tenant(tenant_id) as connection:
            ids = [node.artifact_id for node in wanted if node.artifact_id is not None]
            named = await ArtifactRepository(connection).get_many(ids)
        gate = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(node: TreeNode) -> Any:
            async with gate:
                assert node.artifact_id is not None
                return orjson.loads(await self._store.get(named[node.artifact_id].store_key))

        found = await asyncio.gather(*(read(node) for node in wanted))
        return {node.revision_id: document for node, document in zip(wanted, found, strict=True)}


async def _view(courses: CourseRepository, course_id: UUID, number: int) -> VersionView:
    await courses.get(course_id)
    version = await courses.get_version(course_id, number)
    tree = await courses.get_version_tree(course_id, number)
    return VersionView(version, tree, await courses.get_exports(course_id, number))


def _compare(
    old: Sequence[TreeNode], new: Sequence[TreeNode], changed: Collection[UUID], documents: Mapping[UUID, Any]
) -> CourseDiff:
    def pieces(tree: Sequence[TreeNode]) -> list[Piece]:
        wholes = (node for node in tree if node.revision_id in changed)
        return [piece for node in wholes for piece in pieces_of_document(node, documents.get(node.revision_id, {}))]

    left_out = [node for node in new if (node.whole_id or node.revision_id) not in changed]
    unchanged = sum(node.kind not in {NodeKind.OUTLINE, NodeKind.SLIDES} for node in left_out)
    return compare(pieces(old), pieces(new), unchanged=unchanged)


def _take_whole(chosen: _Selection, wholes: Mapping[str, TreeNode], node: str) -> None:
    """Everything below the node as it is there, and nothing below it that is not."""
    for key in [key for key in chosen.revisions if belongs_to(key, node)]:
        del chosen.revisions[key]
        chosen.documents.pop(key, None)
        chosen.sources.pop(key, None)
    chosen.revisions |= {key: found.revision_id for key, found in wholes.items() if belongs_to(key, node)}


def _with_part(there: Frozen, theirs: Frozen, place: int) -> Frozen | None:
    """``there`` with the block or slide that ``theirs`` has at this place; None where there is no room for it."""
    if isinstance(there, Lesson) and isinstance(theirs, Lesson) and there.content and theirs.content:
        blocks = _spliced(there.content.blocks, theirs.content.blocks, place)
        if blocks is None:
            return None
        content = LessonContent.model_validate({**there.content.model_dump(), "blocks": blocks})
        findings = findings_with_block(there.findings, theirs.findings, place)
        return there.model_copy(update={"content": content, "findings": findings})
    if isinstance(there, WrittenSlides) and isinstance(theirs, WrittenSlides) and there.deck and theirs.deck:
        slides = _spliced(there.deck.slides, theirs.deck.slides, place)
        return None if slides is None else there.model_copy(update={"deck": SlideDeck(slides=slides)})
    return None


def _spliced(items: tuple[Any, ...], others: tuple[Any, ...], place: int) -> tuple[Any, ...] | None:
    return None if place > len(items) else (*items[:place], others[place], *items[place + 1 :])
