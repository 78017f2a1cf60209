"""What is different between two versions of a course: pieces added, removed, moved, changed word by word.

Pieces are what readers see as one: the frame of a lesson, its blocks, its slides, its questions, its recordings.
"""

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from domain.course_graph import NodeKind, TreeNode, below, content_sha256, reading_order
from domain.model import Frozen

_ALIKE: Final = 0.5
"""From this share of common words on, two pieces at different places are one that was changed."""

_SAME_PLACE_ALIKE: Final = 0.15
"""The same for pieces at the same place: a rewritten block is still that block."""

_MOST_WORDS: Final = 3_000
"""Longer texts are not compared word by word, but shown as replaced."""

_WORD: Final = re.compile(r"\s+|[^\W_]+(?:['\u2019-][^\W_]+)*|.", re.DOTALL)
_LETTERS: Final = re.compile(r"[^\W_]+")
_NUMBERED: Final = frozenset({NodeKind.MODULE, NodeKind.BLOCK, NodeKind.SLIDE})


@dataclass(frozen=True, slots=True)
class Piece:
    """Something of a course as it is read: a text under a title."""

    key: str
    kind: NodeKind
    title: str
    text: str
    sha256: str

    @property
    def home(self) -> str:
        """What it is a piece of: its lesson, or the course."""
        return self.key.partition("/")[0] if "/" in self.key else ""

    @property
    def words(self) -> "Counter[str]":
        """How often it says each word."""
        return Counter(word.casefold() for word in _LETTERS.findall(f"{self.title} {self.text}"))


class Change(StrEnum):
    """What became of a piece."""

    ADDED = "added"
    REMOVED = "removed"
    MOVED = "moved"
    CHANGED = "changed"


class Run(Frozen):
    """A stretch of text that stayed, went or came."""

    op: Literal["equal", "delete", "insert"]
    text: str


class Difference(Frozen):
    """One piece that is not as it was. ``moved`` says of a changed one that it stands elsewhere as well."""

    change: Change
    kind: NodeKind
    before: str | None
    """The key in the earlier version; None where it was not there."""
    after: str | None
    title: str
    title_before: str | None = None
    moved: bool = False
    words: tuple[Run, ...] = ()


class CourseDiff(Frozen):
    """Everything that is different, in reading order, and how much of it there is."""

    unchanged: int
    counts: dict[str, int]
    differences: tuple[Difference, ...]


def pieces_of_document(node: TreeNode, document: Mapping[str, Any]) -> list[Piece]:
    """The pieces of a whole node, from the document behind it (JSON)."""
    match node.kind:
        case NodeKind.OUTLINE:
            outline = document["outline"]
            return [
                _piece(f"module-{number}", NodeKind.MODULE, module["title"], module["summary"])
                for number, module in enumerate(outline["modules"], start=1)
            ]
        case NodeKind.LESSON:
            return _pieces_of_lesson(node, document)
        case NodeKind.SLIDES:
            slides = (document.get("deck") or {}).get("slides", ())
            lesson = node.key.partition("/")[0]
            return [
                _piece(below(lesson, f"slide-{number}"), NodeKind.SLIDE, slide["title"], _slide_text(slide))
                for number, slide in enumerate(slides, start=1)
            ]
        case NodeKind.QUIZ:
            questions = (document.get("quiz") or {}).get("questions", ())
            return [_piece(node.key, NodeKind.QUIZ, node.title, "\n\n".join(map(_question_text, questions)))]
        case _:
            return [piece_without_words(node)]


def piece_without_words(node: TreeNode) -> Piece:
    """A node that is known by its checksum only, such as a recording."""
    return Piece(key=node.key, kind=node.kind, title=node.title, text="", sha256=node.content_sha256)


def _pieces_of_lesson(node: TreeNode, document: Mapping[str, Any]) -> list[Piece]:
    content = document.get("content")
    if content is None:
        return [piece_without_words(node)]
    terms = [f"{term['term']}: {term['definition']}" for term in content["terms"]]
    # Readers see both titles: that of the plan, under which the lesson stands, and that of its text.
    frame = "\n\n".join([content["title"], content["summary"], *content["key_points"], *terms])
    blocks = [
        _piece(
            below(node.key, f"block-{number}"),
            NodeKind.BLOCK,
            block["heading"],
            "\n\n".join([*block["paragraphs"], *block["bullets"]]),
        )
        for number, block in enumerate(content["blocks"], start=1)
    ]
    return [_piece(node.key, NodeKind.LESSON, document["title"], frame), *blocks]


def _piece(key: str, kind: NodeKind, title: str, text: str) -> Piece:
    return Piece(key=key, kind=kind, title=title, text=text, sha256=content_sha256([kind.value, title, text]))


def _slide_text(slide: Mapping[str, Any]) -> str:
    figure = slide.get("figure")
    rows = (
        [] if figure is None else [figure["caption"], *(" | ".join(row) for row in [figure["header"], *figure["rows"]])]
    )
    return "\n\n".join([*slide["bullets"], *rows, slide["notes"]])


def _question_text(question: Mapping[str, Any]) -> str:
    options = [
        f"{'+' if place == question['answer'] else '-'} {option}" for place, option in enumerate(question["options"])
    ]
    return "\n".join([question["question"], *options, question["explanation"], question["evidence"]])


# --- matching ---------------------------------------------------------------------------------------


def compare(before: Sequence[Piece], after: Sequence[Piece], *, unchanged: int = 0) -> CourseDiff:
    """What is different: pieces are matched by their place, then by what they say, then by how alike they are.

    ``unchanged`` counts pieces that were left out because everything around them is the same.
    """
    pairs = _matched(before, after)
    moved = _moved(pairs)
    kept_before, kept_after = {old.key for old, _ in pairs}, {now.key for _, now in pairs}
    differences = [
        *(_difference(old, now, moved=now.key in moved) for old, now in pairs if _differs(old, now, moved)),
        *(_gone(piece) for piece in before if piece.key not in kept_before),
        *(_new(piece) for piece in after if piece.key not in kept_after),
    ]
    differences.sort(key=lambda one: (reading_order(one.after or one.before or ""), one.after is None))
    counts = Counter(one.change.value for one in differences)
    return CourseDiff(
        unchanged=unchanged + sum(not _differs(old, now, moved) for old, now in pairs),
        counts={change.value: counts[change.value] for change in Change},
        differences=tuple(differences),
    )


def _matched(before: Sequence[Piece], after: Sequence[Piece]) -> list[tuple[Piece, Piece]]:
    old, new = {piece.key: piece for piece in before}, {piece.key: piece for piece in after}
    pairs: list[tuple[Piece, Piece]] = []

    def take(one: Piece, other: Piece) -> None:
        pairs.append((old.pop(one.key), new.pop(other.key)))

    for key in [key for key in old if key in new and old[key].sha256 == new[key].sha256]:
        take(old[key], new[key])
    by_content: dict[str, list[Piece]] = defaultdict(list)
    for piece in old.values():
        by_content[piece.sha256].append(piece)
    for piece in list(new.values()):
        same = by_content.get(piece.sha256)
        if same:
            # Of several equal ones the one that was nearest: in the same lesson.
            chosen = next((one for one in same if one.home == piece.home), same[0])
            same.remove(chosen)
            take(chosen, piece)
    for _, one, other in sorted(_candidates(old.values(), new.values()), key=lambda found: found[0]):
        if one.key in old and other.key in new:
            take(one, other)
    return pairs


def _candidates(old: Iterable[Piece], new: Iterable[Piece]) -> list[tuple[tuple[float, bool, str], Piece, Piece]]:
    """Pairs that may be one piece changed, best first: alike, and of the same lesson."""
    homes: dict[tuple[str, NodeKind], list[Piece]] = defaultdict(list)
    for piece in new:
        homes[piece.home, piece.kind].append(piece)
    found = []
    for one in old:
        for other in homes[one.home, one.kind]:
            same_place = one.key == other.key
            alike = 1.0 if same_place and one.kind not in _NUMBERED else likeness(one, other)
            if alike >= (_SAME_PLACE_ALIKE if same_place else _ALIKE):
                found.append(((-alike, not same_place, one.key), one, other))
    return found


def likeness(one: Piece, other: Piece) -> float:
    """The share of words that two pieces have in common, from 0 to 1."""
    mine, theirs = one.words, other.words
    total = mine.total() + theirs.total()
    return 2 * (mine & theirs).total() / total if total else 1.0


def _moved(pairs: Sequence[tuple[Piece, Piece]]) -> set[str]:
    """The pieces, by their keys now, that stand elsewhere: in another lesson, or in another order within theirs.

    A block is not moved because another one was put before it.
    """
    moved = {now.key for old, now in pairs if old.home != now.home}
    groups: dict[tuple[str, NodeKind], list[tuple[Piece, Piece]]] = defaultdict(list)
    for old, now in pairs:
        if now.key not in moved and now.kind in _NUMBERED:
            groups[now.home, now.kind].append((old, now))
    for group in groups.values():
        group.sort(key=lambda pair: reading_order(pair[1].key))
        places = [reading_order(old.key) for old, _ in group]
        stayed = _longest_rising(places)
        moved |= {now.key for place, (_, now) in enumerate(group) if place not in stayed}
    return moved


def _longest_rising(values: Sequence[Any]) -> set[int]:
    """The places of a longest rising subsequence."""
    best: list[tuple[int, int | None]] = []
    for at, value in enumerate(values):
        before = [other for other in range(at) if values[other] < value]
        previous = max(before, key=lambda other: best[other][0], default=None)
        best.append((1 if previous is None else best[previous][0] + 1, previous))
    place: int | None = max(range(len(best)), key=lambda other: best[other][0], default=None)
    chosen = set()
    while place is not None:
        chosen.add(place)
        place = best[place][1]
    return chosen


def _differs(old: Piece, now: Piece, moved: set[str]) -> bool:
    return old.sha256 != now.sha256 or now.key in moved


def _gone(piece: Piece) -> Difference:
    return Difference(change=Change.REMOVED, kind=piece.kind, before=piece.key, after=None, title=piece.title)


def _new(piece: Piece) -> Difference:
    return Difference(change=Change.ADDED, kind=piece.kind, before=None, after=piece.key, title=piece.title)


def _difference(old: Piece, now: Piece, *, moved: bool) -> Difference:
    changed = old.sha256 != now.sha256
    return Difference(
        change=Change.CHANGED if changed else Change.MOVED,
        kind=now.kind,
        before=old.key,
        after=now.key,
        title=now.title,
        title_before=old.title if old.title != now.title else None,
        moved=moved,
        words=word_runs(old.text, now.text) if changed else (),
    )


def word_runs(before: str, after: str) -> tuple[Run, ...]:
    """Which words stayed, went and came, in order; together they are both texts."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    if max(len(old), len(new)) > _MOST_WORDS:
        return (Run(op="delete", text=before), Run(op="insert", text=after))
    made: list[Run] = []
    for op, start, end, first, last in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if op == "equal":
            made.append(Run(op="equal", text="".join(old[start:end])))
            continue
        if end > start:
            made.append(Run(op="delete", text="".join(old[start:end])))
        if last > first:
            made.append(Run(op="insert", text="".join(new[first:last])))
    return tuple(made)
