"""What is said of a lesson."""

import pytest

from domain.generation import LessonBlock
from rendering.lesson_script import lesson_script, sentence
from tests.support.courses import make_content


class TestScript:
    def test_everything_in_reading_order(self) -> None:
        assert lesson_script(make_content(), language="en") == (
            "Why work must outlive its process.\n\n"
            "A process may end at any moment. The work must not.\n\n"
            "What a crash takes with it.\n\n"
            "Everything in memory is gone.\n\n"
            "What was written down is still there.\n\n"
            "Open connections. Half-finished calls.\n\n"
            "Key points. Write down each step before the next one starts."
        )

    def test_in_russian(self) -> None:
        said = lesson_script(make_content(key_points=("Записывайте каждый шаг",)), language="ru-RU")
        assert said.endswith("Записывайте каждый шаг.")
        assert "Key points" not in said

    def test_no_foreign_label(self) -> None:
        """The voice of a language that we have no words for reads out no English."""
        assert "Key points" not in lesson_script(make_content(), language="de")

    def test_the_same_lesson_is_the_same_script(self) -> None:
        assert lesson_script(make_content(), language="en") == lesson_script(make_content(), language="en")

    def test_nothing_to_say_leaves_no_gap(self) -> None:
        block = LessonBlock(heading="Code", paragraphs=("```\nrm -rf\n```",), bullets=())
        assert "\n\n\n" not in lesson_script(make_content(blocks=(block,)), language="en")


class TestSentence:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("No end", "No end."),
            ("An end!", "An end!"),
            ("He said «yes».", "He said «yes»."),
            ("A **bold** and _slanted_ word", "A bold and slanted word."),
            ("snake_case_name stays", "snake_case_name stays."),
            ("2 * 3 * 4 = 24", "2 * 3 * 4 = 24."),
            ("Run `make up` now.", "Run make up now."),
            ("See [the page](https://example.org/x) for more", "See the page for more."),
            ("Go to https://example.org/x?y=z now", "Go to now."),
            ("- an item", "an item."),
            ("Two\nlines", "Two lines."),
            ("  ", ""),
        ],
    )
    def test_as_it_is_said(self, text: str, said: str) -> None:
        assert sentence(text) == said
