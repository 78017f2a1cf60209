"""A course as a graph of nodes: what each was made from, so that only what changed is ever made again."""

import hashlib
import json
import re
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import StringConstraints

from domain.generation import ContentStatus
from domain.model import Frozen

_KEY: Final = (
    r"course|outline|module-[0-9]+|lesson-[0-9]+\.[0-9]+(/(block-[0-9]+|slides|slide-[0-9]+|quiz|audio|video))?"
)

NodeKey = Annotated[str, StringConstraints(pattern=rf"^({_KEY})$", max_length=60)]
"""The name of a node within its course, counted from one: ``lesson-1.2``, ``lesson-1.2/slide-3``."""


class NodeKind(StrEnum):
    """What a node of a course is."""

    COURSE = "course"
    OUTLINE = "outline"
    MODULE = "module"
    LESSON = "lesson"
    BLOCK = "block"
    SLIDES = "slides"
    SLIDE = "slide"
    QUIZ = "quiz"
    AUDIO = "audio"
    VIDEO = "video"


class NodeMade(Frozen):
    """One revision of a node, as it was made. Revisions never change; a later one stands beside it.

    ``input_hash`` covers everything that went in (the content of parents, prompt, model, parameters, comment),
    ``content_sha256`` what came out. ``artifact_id`` is where the content lies; None for nodes that are a part of
    their parent's content (blocks, single slides).
    """

    key: NodeKey
    kind: NodeKind
    title: str
    input_hash: str
    content_sha256: str
    artifact_id: UUID | None = None
    status: ContentStatus = ContentStatus.READY
    calls: int = 0
    cost_usd: Decimal = Decimal(0)


class TreeNode(NodeMade):
    """A node of the tree, as some revision of it stands. ``job_id`` is None where a person made it."""

    revision_id: UUID
    whole_id: UUID | None = None
    """The revision that this node is a part of, for modules, blocks and single slides."""
    job_id: UUID | None = None
    made_at: datetime


_PLACE_IN_LESSON: Final = ("", "block", "slides", "slide", "quiz", "audio", "video")


def reading_order(key: str) -> tuple[int, int, int, int]:
    """What to sort keys by, so that a course reads from its outline to the last lesson's last part.

    Modules come before their lessons, lessons before their parts.
    """
    if key in {"course", "outline"}:
        return (0, 0, 0, 0)
    if key.startswith("module-"):
        return (int(key.removeprefix("module-")), 0, 0, 0)
    module, lesson = place_of(key)
    what, _, number = key.partition("/")[2].partition("-")
    return (module + 1, lesson + 1, _PLACE_IN_LESSON.index(what), int(number or 0))


def kind_of(key: str) -> NodeKind:
    """The kind of node that a key names."""
    return NodeKind((key.partition("/")[2] or key).partition("-")[0])


def whole_of(key: str) -> str:
    """The node that holds the content of this one: the deck of a slide, the lesson of a block, the node itself."""
    match kind_of(key):
        case NodeKind.BLOCK:
            return key.partition("/")[0]
        case NodeKind.SLIDE:
            return below(key.partition("/")[0], "slides")
        case NodeKind.MODULE:
            return "outline"
        case _:
            return key


def number_of(key: str) -> int:
    """The place of a module, a block or a slide among its like, counted from zero."""
    return int(key.rpartition("-")[2]) - 1


def belongs_to(key: str, node: str) -> bool:
    """Whether ``key`` is ``node`` or stands below it: lessons below their module, everything below its lesson."""
    if key == node or key.startswith(f"{node}/"):
        return True
    return kind_of(node) is NodeKind.MODULE and key.startswith(f"lesson-{number_of(node) + 1}.")


_MADE_FROM: Final = {
    NodeKind.SLIDES: (NodeKind.VIDEO,),
    NodeKind.AUDIO: (NodeKind.VIDEO,),
    NodeKind.LESSON: (NodeKind.SLIDES, NodeKind.QUIZ, NodeKind.AUDIO, NodeKind.VIDEO),
}


def made_from(kind: NodeKind, *, slides_are_filmed: bool) -> tuple[NodeKind, ...]:
    """What is made, in this order, from a node of this kind, directly or not, within its lesson.

    Only a film of the slides is made from slides and recording; where an avatar speaks, the text is all there is to it.
    """
    if kind in {NodeKind.SLIDES, NodeKind.AUDIO} and not slides_are_filmed:
        return ()
    return _MADE_FROM.get(kind, ())


def lesson_key(module: int, lesson: int) -> str:
    """The key of a lesson; places are counted from zero, keys from one."""
    return f"lesson-{module + 1}.{lesson + 1}"


def below(lesson: str, what: str) -> str:
    """The key of something that belongs to a lesson, such as ``slides`` or ``block-3``."""
    return f"{lesson}/{what}"


def place_of(key: str) -> tuple[int, int]:
    """Module and lesson of a key that belongs to a lesson, counted from zero. Raises ValueError for other keys."""
    found = re.match(r"lesson-([0-9]+)\.([0-9]+)", key)
    if found is None:
        raise ValueError(f"{key} does not belong to a lesson")
    return int(found[1]) - 1, int(found[2]) - 1


def content_sha256(content: Any) -> str:
    """The checksum of a JSON value, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
