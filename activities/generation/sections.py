"""The steps of jobs on a course that is there already: making a part of it again, rendering a version."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from pydantic import Field
from temporalio import activity

from activities.generation.assembly import CourseAssembler
from activities.generation.documents import DocumentStore
from activities.generation.wishes import course_result, render_all
from activities.heartbeat import heartbeating
from activities.steps import StepKeeper, input_hash
from domain.artifacts import Artifact, ArtifactRole
from domain.course_graph import NodeKind, TreeNode, belongs_to, below, kind_of, made_from, place_of, whole_of
from domain.errors import ContentError, NotFound
from domain.generation import CourseInput
from domain.generation_plan import EXPORT_STEP, lesson_parts, module_step
from domain.jobs import JobRef
from domain.model import Frozen
from domain.sections import SectionInput, may_be_missing
from rendering.exports import RenderedFile
from repositories.courses import CourseRepository
from repositories.jobs import JobRepository
from repositories.steps import StepRepository, StepResultRepository

APPLY_STEP: Final = "apply"
"""The step in which what was made takes its place in the course."""

PLAN_PREFIX: Final = "plan-"
"""Under which the plan of each round is remembered."""

_MOVED: Final = "other jobs or people changed what this part is made from, again and again"


class SectionStepInput(Frozen):
    """A step that needs no more than its job. ``round`` counts from one how often it is tried anew."""

    job: JobRef
    round: int = 1


class LessonWork(Frozen):
    """What is to be done in one lesson, counted from zero: first its text, where it is made anew, then ``parts``.

    ``lesson_id`` is the lesson as it stands, ``before_id`` the first of the parts, where that is to be made anew.
    ``standing`` are the documents of slides and recording as they stand.
    """

    module: int
    lesson: int
    lesson_id: UUID
    anew: bool
    parts: tuple[NodeKind, ...]
    before_id: UUID | None = None
    standing: dict[NodeKind, UUID | None] = Field(default_factory=dict)


class SectionPlan(Frozen):
    """What a section job has to do. ``base`` holds the revisions that must still stand when it is done, by key."""

    corpus_id: UUID
    outline_id: UUID
    lessons: tuple[LessonWork, ...]
    base: dict[str, UUID]
    fan_out: int
    course_id: UUID | None = None


class ApplySectionInput(Frozen):
    """What was made, by key: the artifact behind the node, or None where the lesson does without."""

    job: JobRef
    base: dict[str, UUID]
    made: dict[str, UUID | None]
    round: int = 1


class ApplySectionResult(Frozen):
    """False: what it was made from has changed meanwhile. ``version`` is None while the course is still being made."""

    applied: bool
    version: int | None = None


class ExportVersionInput(Frozen):
    """A version to render, as the job asks; None: the one that a ``generation.export`` job names."""

    job: JobRef
    version: int | None = None


class SectionActivities:
    """Steps of ``generation.section`` and ``generation.export``; the parts themselves are made as in any course."""

    def __init__(self, keeper: StepKeeper, documents: DocumentStore, *, lessons_at_once: int) -> None:
        self._keeper = keeper
        self._documents = documents
        self._assembler = CourseAssembler(documents)
        self._lessons_at_once = lessons_at_once

    @activity.defn(name="plan_section")
    async def plan_section(self, step: SectionStepInput) -> SectionPlan:
        """What is to be made again, and what of the course's memory may be used for it.

        Remembered for each round: after a failure the same is planned, so that what was paid for is found again.
        Raises ContentError where the node is not in the course any more.
        """
        job, part = step.job, f"{PLAN_PREFIX}{step.round}"
        async with self._keeper.attempt(job, APPLY_STEP):
            kept = await self._keeper.recall(job, part, "")
            if kept is not None:
                return SectionPlan.model_validate(kept)
            wish = await self._documents.read_section(job)
            wanted = await self._documents.read_input(job)
            async with self._keeper.effect(job) as connection:
                courses = CourseRepository(connection)
                course = await courses.get(wish.course_id)
                tree = {node.key: node for node in await courses.get_tree(wish.course_id)}
                lessons = lesson_works(wish.node, tree, wanted)
                if not lessons or not (wish.node in tree or may_be_missing(wish.node, wanted)):
                    raise ContentError(f"{wish.node} is not in the course any more", code="E.GENERATION.NODE_MISSING")
                follow = [key for key in _followers(lessons) if key != whole_of(wish.node)]
                makers = await courses.get_makers(wish.course_id)
                memory = StepResultRepository(connection)
                await memory.inherit(job, follow, jobs=makers)
                plan = SectionPlan(
                    corpus_id=course.corpus_id,
                    course_id=wish.course_id,
                    outline_id=_artifact(tree["outline"]),
                    lessons=lessons,
                    base=_base(wish.node, lessons, tree),
                    fan_out=self._lessons_at_once,
                )
                if await memory.add(job, part, "", plan.model_dump(mode="json")):
                    return plan
            return await self._recall_plan(job, part)

    @activity.defn(name="apply_section")
    async def apply_section(self, step: ApplySectionInput) -> ApplySectionResult:
        """Put what was made into the course's tree, all at once, and freeze the next version.

        While the course is still being made there is only the tree: its first version will hold it.
        """
        job = step.job
        async with heartbeating(), self._keeper.attempt(job, APPLY_STEP):
            digest = input_hash(APPLY_STEP, *sorted((key, str(made)) for key, made in step.made.items()))
            kept = await self._keeper.recall(job, APPLY_STEP, digest)
            if kept is not None:
                await self._hand_out(job, kept)
                return ApplySectionResult(applied=True, version=kept["version"])
            wish = await self._documents.read_section(job)
            async with self._keeper.effect(job) as connection:
                courses = CourseRepository(connection)
                course = await courses.lock(wish.course_id)
                before = {node.key: node for node in await courses.get_tree(wish.course_id)}
                standing = {key: before[key].revision_id for key in step.base if key in before}
                if standing != step.base:
                    if step.round >= MOST_ROUNDS * job.attempt:
                        raise ContentError(_MOVED, code="E.GENERATION.OVERTAKEN")
                    return ApplySectionResult(applied=False)
                made = {key: artifact for key, artifact in step.made.items() if artifact is not None}
                revisions = await courses.get_by_artifact(wish.course_id, made.values())
                await courses.point(
                    job.tenant_id, wish.course_id, {key: revisions[artifact] for key, artifact in made.items()}
                )
                changed = _changed_texts(before, await courses.get_revisions(wish.course_id, list(revisions.values())))
                kept_back = [
                    key
                    for key in step.made
                    if key not in made and key in before and key.partition("/")[0] not in changed
                ]
                gone = [key for key in step.made if key not in made and key not in kept_back]
                await courses.drop(wish.course_id, gone)
                version = None
                if course.latest_version:
                    version = await courses.snapshot(wish.course_id, job, reason="section")
                after = await courses.get_tree(wish.course_id)
                bought = await courses.get_made_by(wish.course_id, job.job_id)
                result = section_result(wish, before, after, bought, version=version, made=made)
                result["kept"] = kept_back
                for module in {place_of(key)[0] for key in step.made}:
                    await StepRepository(connection).complete(job, module_step(module))
                if version is None:
                    await StepRepository(connection).complete(job, EXPORT_STEP)
                await self._keeper.finish_part(
                    connection, job, step=APPLY_STEP, part=APPLY_STEP, digest=digest, result=result,
                    event="section.applied",
                    data={"node": wish.node, "version": version, "recomputed": len(result["recomputed"])},
                )  # fmt: skip
                await JobRepository(connection).set_result(job.job_id, result)
            return ApplySectionResult(applied=True, version=version)

    @activity.defn(name="export_version")
    async def export_version(self, step: ExportVersionInput) -> None:
        """Render a version in every form asked for, and add the files to the job's result."""
        job = step.job
        async with heartbeating(), self._keeper.attempt(job, EXPORT_STEP):
            course_id = await self._documents.course_of(job)
            number = step.version or (await self._documents.read_export(job)).version
            digest = input_hash(EXPORT_STEP, str(course_id), number)
            kept = await self._keeper.recall(job, EXPORT_STEP, digest)
            if kept is not None:
                await self._hand_out(job, kept)
                return
            wanted = await self._documents.read_input(job)
            async with self._keeper.effect(job) as connection:
                courses = CourseRepository(connection)
                corpus_id = (await courses.get(course_id)).corpus_id
                tree = await courses.get_version_tree(course_id, number, with_parts=False)
            course = await self._assembler.assemble(job, corpus_id=corpus_id, tree=tree)
            files = await asyncio.to_thread(render_all, course, wanted)
            artifacts = await asyncio.gather(*(self._store(job, file) for file in files))
            shown = course_result(course, artifacts)
            async with self._keeper.effect(job) as connection:
                if await StepResultRepository(connection).get_or_none(job, EXPORT_STEP, digest) is not None:
                    return
                courses = CourseRepository(connection)
                for export, artifact in zip(dict.fromkeys(wanted.exports), artifacts, strict=True):
                    await self._documents.add(connection, artifact)
                    await courses.add_export(
                        job.tenant_id, course_id, number,
                        export=export, profile=wanted.profile, artifact_id=artifact.id,
                    )  # fmt: skip
                earlier = (await JobRepository(connection).get_result(job.job_id)).result or {"cost_usd": "0"}
                result = {"course_id": str(course_id), "version": number, **shown, **earlier}
                await self._keeper.finish_part(
                    connection, job, step=EXPORT_STEP, part=EXPORT_STEP, digest=digest, result=result,
                    event="course.exported", data={"files": [file.name for file in files], "version": number},
                )  # fmt: skip
                await JobRepository(connection).set_result(job.job_id, result)

    async def _recall_plan(self, job: JobRef, part: str) -> SectionPlan:
        return SectionPlan.model_validate(await self._keeper.recall(job, part, ""))

    async def _hand_out(self, job: JobRef, kept: dict[str, Any]) -> None:
        # An attempt that did not succeed has taken the job's result away.
        async with self._keeper.effect(job) as connection:
            await JobRepository(connection).set_result(job.job_id, kept)

    async def _store(self, job: JobRef, file: RenderedFile) -> Artifact:
        return await self._documents.store_bytes(job, file.name, file.media_type, file.body, ArtifactRole.EXPORT)


MOST_ROUNDS: Final = 5
"""How often an attempt makes a section anew because what it is made from has changed meanwhile.

A later attempt goes through the rounds of those before it in passing: their results are remembered.
"""


# --- what is to be made -----------------------------------------------------------------------------


def lesson_works(node: str, tree: Mapping[str, TreeNode], wanted: CourseInput) -> tuple[LessonWork, ...]:
    """What the wish for a node means lesson by lesson; empty where no lesson below it is written."""
    kind = kind_of(node)
    asked = wanted_kinds(wanted)
    anew = kind in {NodeKind.MODULE, NodeKind.LESSON, NodeKind.BLOCK}
    if anew:
        parts = asked
    else:
        first = kind_of(whole_of(node))
        filmed = wanted.video is not None and wanted.video.films_slides
        parts = (first, *(other for other in made_from(first, slides_are_filmed=filmed) if other in asked))
    lessons = (
        [key for key, found in tree.items() if found.kind is NodeKind.LESSON and belongs_to(key, node)]
        if kind is NodeKind.MODULE
        else [key for key in [node.partition("/")[0]] if key in tree]
    )
    return tuple(
        LessonWork(
            module=place_of(key)[0],
            lesson=place_of(key)[1],
            lesson_id=_artifact(tree[key]),
            anew=anew,
            parts=parts,
            before_id=None if anew or whole_of(node) not in tree else tree[whole_of(node)].artifact_id,
            standing={
                made: tree[below(key, made)].artifact_id
                for made in (NodeKind.SLIDES, NodeKind.AUDIO)
                if below(key, made) in tree
            },
        )
        for key in lessons
    )


def wanted_kinds(wanted: CourseInput) -> tuple[NodeKind, ...]:
    """What is made of every lesson of a course, in order."""
    asked = {NodeKind(part) for part in lesson_parts(wanted)}
    asked |= {NodeKind.AUDIO} if wanted.speech is not None else set()
    asked |= {NodeKind.VIDEO} if wanted.video is not None else set()
    return tuple(kind for kind in made_from(NodeKind.LESSON, slides_are_filmed=True) if kind in asked)


def _followers(lessons: Iterable[LessonWork]) -> list[str]:
    return [below(f"lesson-{work.module + 1}.{work.lesson + 1}", kind.value) for work in lessons for kind in work.parts]


def _base(node: str, lessons: Iterable[LessonWork], tree: Mapping[str, TreeNode]) -> dict[str, UUID]:
    """What must not change meanwhile: the text that parts are made from, and what a single block or slide is in."""
    keys = {whole_of(node)} if whole_of(node) != node and kind_of(node) is not NodeKind.MODULE else set()
    for work in lessons:
        key = f"lesson-{work.module + 1}.{work.lesson + 1}"
        if not work.anew:
            used = [kind for kind in (NodeKind.SLIDES, NodeKind.AUDIO) if kind not in work.parts]
            keys |= {key, *(below(key, kind.value) for kind in used if NodeKind.VIDEO in work.parts)}
    return {key: tree[key].revision_id for key in sorted(keys) if key in tree}


# --- what came of it --------------------------------------------------------------------------------


def _changed_texts(before: Mapping[str, TreeNode], made: Iterable[TreeNode]) -> set[str]:
    """The lessons whose text is another than it was: what was made from it is of no use where it is not made anew."""
    return {
        node.key
        for node in made
        if node.kind is NodeKind.LESSON
        and (node.key not in before or before[node.key].content_sha256 != node.content_sha256)
    }


def section_result(
    wish: SectionInput,
    before: Mapping[str, TreeNode],
    after: Iterable[TreeNode],
    bought: Iterable[TreeNode],
    *,
    version: int | None,
    made: Collection[str],
) -> dict[str, Any]:
    """What was made anew and for how much, and what was used again and what that saved; keys and numbers only."""
    wholes = [node for node in after if node.whole_id is None]
    fresh = {node.revision_id: node for node in bought}
    reused = [node for node in wholes if node.revision_id not in fresh]
    cost = sum((node.cost_usd for node in fresh.values()), Decimal(0))
    return {
        "course_id": str(wish.course_id),
        "version": version,
        "node": wish.node,
        "recomputed": [
            {
                "node": node.key,
                "kind": node.kind.value,
                "status": node.status.value,
                "changed": node.key not in before or before[node.key].content_sha256 != node.content_sha256,
                "calls": node.calls,
                "cost_usd": f"{node.cost_usd:f}",
            }
            for node in wholes
            if node.revision_id in fresh
        ],
        "reused": {
            "nodes": len(reused),
            "by_kind": dict(sorted(Counter(node.kind.value for node in reused).items())),
            "below": [node.key for node in reused if node.key in made],
            "calls": sum(node.calls for node in reused),
        },
        "cost_usd": f"{cost:f}",
        "saved_usd": f"{sum((node.cost_usd for node in reused), Decimal(0)):f}",
    }


def _artifact(node: TreeNode) -> UUID:
    if node.artifact_id is None:
        raise NotFound("a part of a node has no content of its own")
    return node.artifact_id
