"""What is different between two versions, on pieces made up for it."""

import random
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from core.ids import new_id
from domain.course_diff import Change, Piece, compare, pieces_of_document, word_runs
from domain.course_graph import NodeKind, TreeNode, content_sha256
from domain.generation import ContentStatus, Quiz
from domain.lesson_parts import WrittenQuiz
from domain.model import Frozen
from tests.support.courses import make_content, make_lesson, make_provenance, make_question

ONE = "Tides come twice a day because the earth turns below two bulges of water."
TWO = "Bays that are long and narrow carry the highest tides of all coasts."
THREE = "Rivers let the tide run far inland as a wave that sailors call a bore."


def block(lesson: str, number: int, text: str, title: str = "Heading") -> Piece:
    """A block of a lesson."""
    return Piece(f"{lesson}/block-{number}", NodeKind.BLOCK, title, text, content_sha256([title, text]))


def blocks(lesson: str, *texts: str) -> list[Piece]:
    """The blocks of a lesson."""
    return [block(lesson, number, text) for number, text in enumerate(texts, start=1)]


def found(before: list[Piece], after: list[Piece]) -> list[tuple[str, str | None, str | None]]:
    """The differences in short."""
    return [(one.change.value, one.before, one.after) for one in compare(before, after).differences]


class TestMatching:
    def test_a_block_put_in_front_moves_nothing(self) -> None:
        before, after = blocks("lesson-1.1", ONE, TWO), blocks("lesson-1.1", THREE, ONE, TWO)
        assert found(before, after) == [("added", None, "lesson-1.1/block-1")]

    def test_one_that_is_gone_moves_nothing(self) -> None:
        before, after = blocks("lesson-1.1", ONE, TWO, THREE), blocks("lesson-1.1", TWO, THREE)
        assert found(before, after) == [("removed", "lesson-1.1/block-1", None)]

    def test_one_that_changed_its_place_is_moved_and_the_others_are_not(self) -> None:
        before, after = blocks("lesson-1.1", ONE, TWO, THREE), blocks("lesson-1.1", TWO, THREE, ONE)
        assert found(before, after) == [("moved", "lesson-1.1/block-1", "lesson-1.1/block-3")]

    def test_one_may_move_to_another_lesson(self) -> None:
        before = [*blocks("lesson-1.1", ONE, TWO), *blocks("lesson-1.2", THREE)]
        after = [*blocks("lesson-1.1", ONE), *blocks("lesson-1.2", THREE, TWO)]
        assert found(before, after) == [("moved", "lesson-1.1/block-2", "lesson-1.2/block-2")]

    def test_one_may_be_changed_and_moved_at_once(self) -> None:
        before = blocks("lesson-1.1", ONE, TWO)
        after = blocks("lesson-1.1", THREE, TWO, ONE.replace("twice", "almost twice"))
        difference = next(one for one in compare(before, after).differences if one.change is Change.CHANGED)
        assert (difference.before, difference.after) == ("lesson-1.1/block-1", "lesson-1.1/block-3")
        assert difference.moved

    def test_a_block_with_nothing_in_common_is_another_block(self) -> None:
        before, after = blocks("lesson-1.1", "Alpha beta gamma."), blocks("lesson-1.1", "Delta epsilon zeta.")
        after = [Piece(after[0].key, after[0].kind, "Other", after[0].text, "x")]
        assert sorted(change for change, _, _ in found(before, after)) == ["added", "removed"]

    @given(st.lists(st.sampled_from([ONE, TWO, THREE, "x y z"]), max_size=8), st.randoms(use_true_random=False))
    def test_every_piece_is_told_of_once(self, texts: list[str], rng: random.Random) -> None:
        other = [text for text in texts if rng.random() < 0.8] + ["New words here."] * rng.randint(0, 2)
        rng.shuffle(other)
        before, after = blocks("lesson-1.1", *texts), blocks("lesson-1.1", *other)
        diff = compare(before, after)
        told_before = [one.before for one in diff.differences if one.before is not None]
        told_after = [one.after for one in diff.differences if one.after is not None]
        assert len(told_before) == len(set(told_before))
        assert len(told_after) == len(set(told_after))
        assert len(told_before) + diff.unchanged == len(before)
        assert len(told_after) + diff.unchanged == len(after)


class TestPieces:
    """What of a document is compared: whatever readers see of it."""

    def test_the_title_that_a_lessons_text_has_of_its_own(self) -> None:
        """It may be another than that of the plan, and then both are shown."""
        before = make_lesson(content=make_content(title="The moon pulls"))
        after = make_lesson(content=make_content(title="The moon and the sea"))
        (difference,) = compare(pieces(NodeKind.LESSON, before), pieces(NodeKind.LESSON, after)).differences
        assert (difference.change, difference.after) == (Change.CHANGED, "lesson-1.1")
        assert "and the sea" in [run.text.strip() for run in difference.words if run.op == "insert"]

    def test_the_sentence_that_shows_an_answer(self) -> None:
        quizzes = [Quiz(questions=(make_question(evidence=sentence),)) for sentence in (ONE, TWO)]
        before, after = (
            WrittenQuiz(status=ContentStatus.READY, quiz=quiz, provenance=make_provenance()) for quiz in quizzes
        )
        (difference,) = compare(pieces(NodeKind.QUIZ, before), pieces(NodeKind.QUIZ, after)).differences
        assert (difference.change, difference.after) == (Change.CHANGED, "lesson-1.1/quiz")


def pieces(kind: NodeKind, document: Frozen) -> list[Piece]:
    """The pieces of a document of the first lesson."""
    key = "lesson-1.1" if kind is NodeKind.LESSON else f"lesson-1.1/{kind}"
    node = TreeNode(
        key=key, kind=kind, title="Tides", input_hash="", content_sha256="", revision_id=new_id(),
        made_at=datetime.now(UTC),
    )  # fmt: skip
    return pieces_of_document(node, document.model_dump(mode="json"))


class TestWords:
    @given(st.text(max_size=200), st.text(max_size=200))
    def test_hold_both_texts(self, before: str, after: str) -> None:
        runs = word_runs(before, after)
        assert "".join(run.text for run in runs if run.op != "insert") == before
        assert "".join(run.text for run in runs if run.op != "delete") == after

    def test_of_endless_texts_are_not_looked_for(self) -> None:
        assert [run.op for run in word_runs("a " * 10_000, "b " * 10_000)] == ["delete", "insert"]
