"""What a model is told after a person did not agree to an outline."""

from typing import Final

from activities.generation.wishes import Rejected, outline_wish
from domain.generation import Corpus, CourseInput, CourseOutline, LessonOutline, ModuleOutline, Section
from prompts import course_outline, revision

CORPUS: Final = Corpus(sections=(Section(id="s1", source="a.md", path=("Tides",), paragraphs=("The moon pulls.",)),))
WANTED: Final = CourseInput(topic="Tides", modules=1, lessons_per_module=1)
OUTLINE: Final = CourseOutline(
    title="An outline nobody wanted",
    description="d",
    modules=(
        ModuleOutline(
            title="m", summary="s", lessons=(LessonOutline(title="l", objectives=("o",), section_ids=("s1",)),)
        ),
    ),
)


def test_the_outline_and_every_comment_are_in_its_messages() -> None:
    """After the first wish as it was; and the wish is another one, that no cache answers."""
    first = outline_wish(WANTED, CORPUS)
    again = outline_wish(WANTED, CORPUS, rejected=Rejected(OUTLINE, ("More of the moon", "", "Fewer numbers")))
    assert again.messages[: len(first.messages)] == first.messages
    earlier, wish = again.messages[len(first.messages) :]
    assert (earlier.role, earlier.content) == ("assistant", OUTLINE.model_dump_json())
    assert wish.role == "user"
    assert "More of the moon\nFewer numbers" in wish.content
    assert (first.prompt, again.prompt) == (course_outline.PROMPT, revision.PROMPT)
    assert (first.fresh, again.fresh) == (False, True)
    assert first.task != again.task


def test_without_a_reason_something_else_is_wanted() -> None:
    again = outline_wish(WANTED, CORPUS, rejected=Rejected(OUTLINE, ("",)))
    assert "<comment>" not in again.messages[-1].content
    assert "Write it anew" in again.messages[-1].content


def test_the_rules_stay() -> None:
    """Another size than the one asked for is a fault also the second time."""
    again = outline_wish(WANTED.model_copy(update={"modules": 2}), CORPUS, rejected=Rejected(OUTLINE, ("x",)))
    assert [pointer for pointer, _ in again.rule(OUTLINE)] == ["/modules"]
