import pytest

from domain.generation import ContentStatus, Quiz, SlideDeck
from domain.generation_plan import LessonPart, lesson_parts
from domain.lesson_parts import WrittenQuiz, WrittenSlides, deck_faults, is_said_in, quiz_faults, with_parts
from tests.support.course_inputs import wanted
from tests.support.courses import make_content, make_lesson, make_provenance, make_question, make_slide


class TestEvidence:
    @pytest.mark.parametrize(
        "sentence",
        [
            "What was written down is still there.",
            "What  was written\ndown is still there.",
            "- Half-finished calls",
            "Event history: The record from which a workflow is rebuilt.",
            "Half\N{NON-BREAKING HYPHEN}finished calls",
        ],
    )
    def test_a_sentence_of_the_lesson_is_accepted(self, sentence: str) -> None:
        """In whatever way it is set."""
        assert not quiz_faults(Quiz(questions=(make_question(evidence=sentence),)), make_content())

    @pytest.mark.parametrize(
        ("sentence", "why"),
        [
            ("What was written down is lost.", "word by word"),
            ("What a crash takes with it", "word by word"),  # a heading states nothing
            ("down", "too short"),
            ("... -- ... -- ...", "too short"),
        ],
    )
    def test_anything_else_is_a_fault(self, sentence: str, why: str) -> None:
        """With its place."""
        ((place, message),) = quiz_faults(Quiz(questions=(make_question(evidence=sentence),)), make_content())
        assert place == "/questions/0/evidence"
        assert why in message

    def test_a_question_asked_twice_is_a_fault(self) -> None:
        """Capitals do not make it another one."""
        again = make_question(question=make_question().question.upper())
        faults = quiz_faults(Quiz(questions=(make_question(), again)), make_content())
        assert faults == [("/questions/1/question", "is asked twice")]

    def test_nothing_is_said_by_no_words(self) -> None:
        """White space is in every text."""
        assert not is_said_in(make_content(), " \n")


class TestDeck:
    def test_an_empty_slide_is_a_fault(self) -> None:
        """One with a figure is not empty."""
        deck = SlideDeck(slides=(make_slide(bullets=()), make_slide(bullets=(), figure=None)))
        assert deck_faults(deck) == [("/slides/1", "needs bullets or a figure")]


class TestParts:
    def test_are_joined_with_their_origins(self) -> None:
        """Slides that did not come to be leave their origin, which cost something."""
        origin = make_provenance(prompt_id="course-slides")
        slides = WrittenSlides(status=ContentStatus.DRAFT, deck=None, provenance=origin)
        quiz = WrittenQuiz(
            status=ContentStatus.READY, quiz=Quiz(questions=(make_question(),)), provenance=make_provenance()
        )
        lesson = with_parts(make_lesson(), slides, quiz)
        assert (lesson.slides, lesson.slides_provenance, lesson.quiz) == (None, origin, quiz.quiz)
        assert len(lesson.origins) == 3
        assert with_parts(make_lesson(), None, None).origins == (make_lesson().provenance,)

    def test_are_what_was_asked_for_in_order(self) -> None:
        """Slides before questions."""
        assert lesson_parts(wanted()) == ()
        assert lesson_parts(wanted(quiz=True, slides=True)) == (LessonPart.SLIDES, LessonPart.QUIZ)
