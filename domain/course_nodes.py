"""The outline and the lessons of a course as nodes of its graph."""

from uuid import UUID

from domain.course_graph import NodeKind, NodeMade, below, content_sha256, lesson_key
from domain.generation import CourseOutline, Lesson, Provenance


def outline_nodes(
    outline: CourseOutline, provenance: Provenance, *, input_hash: str, artifact_id: UUID
) -> list[NodeMade]:
    """The outline, and each module as a part of it."""
    whole = NodeMade(
        key="outline",
        kind=NodeKind.OUTLINE,
        title=outline.title,
        input_hash=input_hash,
        content_sha256=content_sha256(outline.model_dump(mode="json")),
        artifact_id=artifact_id,
        calls=provenance.calls,
        cost_usd=provenance.cost_usd,
    )
    modules = [
        NodeMade(
            key=f"module-{number}",
            kind=NodeKind.MODULE,
            title=module.title,
            input_hash=input_hash,
            content_sha256=content_sha256([module.title, module.summary]),
        )
        for number, module in enumerate(outline.modules, start=1)
    ]
    return [whole, *modules]


def lesson_nodes(module: int, lesson: Lesson, *, input_hash: str, artifact_id: UUID) -> list[NodeMade]:
    """A lesson of the module at this place (counted from zero), and each block of its text as a part of it."""
    key = lesson_key(module, lesson.index)
    said = lesson.content or lesson.draft
    whole = NodeMade(
        key=key,
        kind=NodeKind.LESSON,
        title=lesson.title,
        input_hash=input_hash,
        content_sha256=content_sha256(said and said.model_dump(mode="json")),
        artifact_id=artifact_id,
        status=lesson.status,
        calls=lesson.provenance.calls,
        cost_usd=lesson.provenance.cost_usd,
    )
    blocks = [
        NodeMade(
            key=below(key, f"block-{number}"),
            kind=NodeKind.BLOCK,
            title=block.heading,
            input_hash=input_hash,
            content_sha256=content_sha256(block.model_dump(mode="json")),
        )
        for number, block in enumerate(() if lesson.content is None else lesson.content.blocks, start=1)
    ]
    return [whole, *blocks]
