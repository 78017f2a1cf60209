"""Slides and questions without a model: real texts of the lesson, provable answers, the same each time."""

# ruff: noqa: RUF001
# Russian texts are written in Cyrillic.

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.generation import (
    CompletionRequest,
    Finish,
    LessonBlock,
    LessonContent,
    Quiz,
    QuizTask,
    Section,
    SlideDeck,
    SlidesTask,
)
from domain.lesson_parts import deck_faults, is_said_in, quiz_faults
from gateways.offline import OfflineLanguageModel
from gateways.offline.tables import table_of
from tests.gateways.test_offline import ENGLISH, RUSSIAN, lessons_of, request_for, sections_of
from tests.support.courses import make_content

COURSES = [(ENGLISH, "en"), (RUSSIAN, "ru")]


def slides_task(lesson: LessonContent, language: str = "en") -> SlidesTask:
    return SlidesTask(topic="Things", audience="all", language=language, level="beginner", lesson=lesson)


def quiz_task(
    lesson: LessonContent, sections: tuple[Section, ...] = (), language: str = "en", questions: int = 5
) -> QuizTask:
    return QuizTask(
        topic="Things", audience="all", language=language, level="beginner",
        lesson=lesson, questions=questions, sections=sections,
    )  # fmt: skip


def completed(request: CompletionRequest) -> tuple[Finish, str]:
    answer = asyncio.run(OfflineLanguageModel().complete(request=request))
    return answer.finish, answer.text


def deck_of(lesson: LessonContent, language: str = "en") -> SlideDeck:
    return SlideDeck.model_validate_json(completed(request_for(slides_task(lesson, language)))[1])


def quiz_of(task: QuizTask) -> Quiz | None:
    finish, text = completed(request_for(task))
    return None if finish is Finish.REFUSAL else Quiz.model_validate_json(text)


def lesson_with(*blocks: LessonBlock) -> LessonContent:
    return make_content(blocks=blocks, terms=())


class TestSlides:
    @pytest.mark.parametrize(("names", "language"), COURSES)
    def test_everything_shown_is_in_the_lesson(self, names: tuple[str, ...], language: str) -> None:
        for lesson in lessons_of(names, 2, 3, language):
            deck = deck_of(lesson, language)
            assert not deck_faults(deck)
            assert [slide.title for slide in deck.slides][: len(lesson.blocks)] == [
                block.heading for block in lesson.blocks
            ]
            for slide in deck.slides:
                assert all(is_said_in(lesson, bullet.removesuffix("…")) for bullet in slide.bullets)

    def test_a_table_of_the_source_is_a_figure_again(self) -> None:
        figures = [
            slide.figure for lesson in lessons_of(("queues.md",), 2, 2, "en") for slide in deck_of(lesson).slides
        ]
        (retries,) = [one for one in figures if one is not None and "Delay" in one.header]
        assert retries.header == ("Entry", "Delay", "What the operator sees")
        assert retries.rows[1] == ("second", "10 seconds", "a warning in the log")

    def test_a_list_of_fragments_keeps_its_introduction(self) -> None:
        block = LessonBlock(heading="Check", paragraphs=("Check these points:",), bullets=("the wind;", "the rain."))
        assert deck_of(lesson_with(block)).slides[0].bullets == ("Check these points:", "the wind;", "the rain.")

    @settings(deadline=None, database=None, max_examples=40)
    @given(st.text(min_size=1).filter(str.strip), st.text(min_size=1), st.text(min_size=1))
    def test_no_text_makes_a_deck_that_does_not_fit(self, heading: str, paragraph: str, bullet: str) -> None:
        """Lessons by a model, with anything in them."""
        try:
            lesson = lesson_with(LessonBlock(heading=heading, paragraphs=(paragraph,), bullets=(bullet,)))
        except ValueError:
            return
        assert not deck_faults(deck_of(lesson))


class TestTables:
    @pytest.mark.parametrize(
        "bullets",
        [
            ("One — first",),
            ("One — first", "Two"),
            ("One — first", "one — again"),
            ("the fault has been repaired;", "the message still makes sense"),
        ],
    )
    def test_other_lists_are_none(self, bullets: tuple[str, ...]) -> None:
        assert table_of(bullets) is None

    def test_a_missing_cell_leaves_a_dash(self) -> None:
        table = table_of(("Venus — Colour: white; Best time: evening; Size: large", "Mars — Colour: red; Size: small"))
        assert table is not None
        assert table.names == ("Colour", "Best time", "Size")
        assert table.rows[1].cells == ("red", "–", "small")


class TestQuiz:
    @pytest.mark.parametrize(("names", "language"), COURSES)
    def test_answers_are_found_in_the_lesson_and_wrong_options_are_not(
        self, names: tuple[str, ...], language: str
    ) -> None:
        sections = sections_of(*names)
        asked = 0
        for lesson in lessons_of(names, 2, 3, language):
            quiz = quiz_of(quiz_task(lesson, sections, language))
            assert quiz is not None
            assert not quiz_faults(quiz, lesson)
            asked += len(quiz.questions)
            for question in quiz.questions:
                right = question.options[question.answer]
                assert right.casefold() in " ".join(question.evidence.split()).casefold()
                assert 3 <= len(question.options) <= 4
                others = [option for option in question.options if option != right]
                assert not any(other in question.evidence for other in others if not other.isdigit())
        assert asked >= 10

    def test_is_the_same_each_time_and_no_longer_than_wanted(self) -> None:
        sections = sections_of("queues.md")
        (lesson,) = lessons_of(("queues.md",), 1, 1, "en")
        first = quiz_of(quiz_task(lesson, sections, questions=2))
        assert first is not None
        assert first == quiz_of(quiz_task(lesson, sections, questions=2))
        assert len(first.questions) == 2

    def test_right_options_are_in_every_place(self) -> None:
        sections = sections_of(*ENGLISH)
        quizzes = [quiz_of(quiz_task(lesson, sections)) for lesson in lessons_of(ENGLISH, 3, 3, "en")]
        places = {question.answer for quiz in quizzes if quiz for question in quiz.questions}
        assert places == {0, 1, 2, 3}

    def test_a_lesson_without_a_fair_question_gets_none(self) -> None:
        lesson = lesson_with(LessonBlock(heading="Wind", paragraphs=("It blows.",), bullets=()))
        assert quiz_of(quiz_task(lesson)) is None

    def test_the_rest_of_the_sentence_must_not_give_the_term_away(self) -> None:
        """A gap whose words stand beside it is no question."""
        sections = sections_of("queues.md")
        for lesson in lessons_of(("queues.md",), 2, 2, "en"):
            quiz = quiz_of(quiz_task(lesson, sections))
            assert quiz is not None
            for question in quiz.questions:
                right = question.options[question.answer]
                if "[…]" in question.question and not right.replace(".", "").isdigit():
                    assert right.casefold() not in question.question.casefold()
