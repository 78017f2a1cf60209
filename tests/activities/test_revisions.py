"""A single block or slide made anew: what is judged, and what is known of the things around it."""

from typing import Any, Final

from activities.generation.lesson_parts import slides_wish
from activities.generation.revisions import findings_with_block, put_back, revised
from activities.generation.writer import Wish, Written
from domain.generation import ContentStatus, CourseInput, LessonBlock, Slide, SlideDeck
from domain.guarding import Finding, FindingKind, GuardAction
from domain.sections import Revision
from tests.support.courses import make_content, make_provenance

EMPTY: Final = Slide(title="Nothing", bullets=(), notes="Nothing is shown.", figure=None)
FULL: Final = Slide(title="Tides", bullets=("The moon pulls.",), notes="It does.", figure=None)


def finding(pointer: str) -> Finding:
    """An address in some string."""
    return Finding(
        kind=FindingKind.EMAIL,
        pointer=pointer,
        start=0,
        end=5,
        confidence=1.0,
        detector="test",
        action=GuardAction.FLAG,
    )


def block(heading: str) -> LessonBlock:
    """A block."""
    return LessonBlock(heading=heading, paragraphs=("The moon pulls the sea.",), bullets=())


def wish_for_slide(before: SlideDeck, number: int) -> Wish[Any]:
    """The wish for one slide, counted from one."""
    wish = slides_wish(CourseInput(topic="Tides", modules=1, lessons_per_module=1), make_content())
    return revised(wish, Revision(comment=None, part=f"lesson-1.1/slide-{number}"), before)


def test_a_single_slide_is_judged_as_a_slide_of_its_deck() -> None:
    wish = wish_for_slide(SlideDeck(slides=(FULL, FULL)), 2)
    assert list(wish.rule(EMPTY)) == [("", "needs bullets or a figure")]
    assert not wish.rule(FULL)


def test_what_is_wrong_with_another_slide_is_not_this_ones_fault() -> None:
    assert not wish_for_slide(SlideDeck(slides=(EMPTY, FULL)), 2).rule(FULL)


def test_findings_of_other_blocks_stay_and_new_ones_name_their_place_in_the_lesson() -> None:
    before = make_content(blocks=tuple(block(f"No. {number}") for number in range(12)))
    written = Written(
        ContentStatus.READY, block("Anew"), None, make_provenance(), (finding("/paragraphs/0"),)
    )  # fmt: skip
    old = [finding(pointer) for pointer in ("/summary", "/blocks/1/heading", "/blocks/0/heading", "/blocks/10/heading")]
    made = put_back(written, Revision(comment=None, part="lesson-1.1/block-2"), before, findings=old)
    assert [one.pointer for one in made.findings] == [
        "/summary", "/blocks/0/heading", "/blocks/10/heading", "/blocks/1/paragraphs/0",
    ]  # fmt: skip
    assert made.content is not None
    assert made.content.blocks[1].heading == "Anew"


def test_a_block_of_another_lesson_brings_its_own_findings_and_no_others() -> None:
    """Block 1 is not block 10, and what was found elsewhere in that lesson is not in this one."""
    mine = [finding(pointer) for pointer in ("/summary", "/blocks/1/heading", "/blocks/10/heading")]
    theirs = [finding(pointer) for pointer in ("/summary", "/blocks/1/paragraphs/0", "/blocks/10/paragraphs/0")]
    assert [one.pointer for one in findings_with_block(mine, theirs, 1)] == [
        "/summary", "/blocks/10/heading", "/blocks/1/paragraphs/0",
    ]  # fmt: skip
