"""The golden set: texts of our own, whose demands the offline provider, which quotes them, meets in full."""

import re

import pytest

from activities.generation.wishes import lesson_of, lesson_wish, outline_wish
from activities.generation.writer import Written
from domain.evaluation import GoldenCase
from domain.evaluation_measures import covered, language_of, score, source_paragraphs, words
from domain.generation import ContentStatus
from gateways.offline.lesson import write_lesson
from gateways.offline.outline import write_outline
from prompts.golden import golden_set_names, load_golden_set
from rendering.sources import SourceText, build_corpus
from tests.support.evaluation import NOWHERE

CASES = load_golden_set("core").cases


def test_there_is_one_set_and_it_is_large_enough() -> None:
    assert golden_set_names() == ("core",)
    assert len(CASES) >= 12
    assert [case.name for case in CASES] == sorted(case.name for case in CASES)
    with pytest.raises(KeyError):
        load_golden_set("../core")


def test_shapes() -> None:
    """Two languages, tables, lists, long and short ones, every format, and texts that try to give orders."""
    assert {case.language for case in CASES} == {"en", "ru"}
    assert {case.source_name.rpartition(".")[2] for case in CASES} == {"md", "txt", "html"}
    lengths = sorted(len(words(case.source)) for case in CASES)
    assert lengths[0] < 80
    assert lengths[-1] > 600
    for language in ("en", "ru"):
        ours = [case for case in CASES if case.language == language]
        assert any("hostile" in case.name and case.forbidden for case in ours)
        assert any(re.search(r"^\|.*\|$", case.source, re.MULTILINE) for case in ours)
        assert any(re.search(r"^- ", case.source, re.MULTILINE) for case in ours)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestEachCase:
    def test_it_asks_for_what_its_text_says(self, case: GoldenCase) -> None:
        """Each key point stands together in one paragraph of the source, and the source is in its language."""
        paragraphs = source_paragraphs(build_corpus([SourceText(name=case.source_name, text=case.source)]))
        assert [point for point in case.key_points if not covered(point, paragraphs)] == []
        assert language_of(" ".join(paragraphs)) == case.language

    def test_extracts_of_it_are_perfect(self, case: GoldenCase) -> None:
        wanted = case.course(provider="offline", model=None)
        corpus = build_corpus([SourceText(name=case.source_name, text=case.source)])
        wish = outline_wish(wanted, corpus)
        outline = write_outline(wish.task)  # type: ignore[arg-type] # the task of an outline
        assert not wish.rule(outline)
        lessons = [
            [
                lesson_of(
                    place,
                    planned,
                    Written(
                        ContentStatus.READY,
                        write_lesson(lesson_wish(wanted, corpus, outline, module=module, lesson=place).task),  # type: ignore[arg-type]
                        None,
                        NOWHERE,
                    ),
                )
                for place, planned in enumerate(part.lessons)
            ]
            for module, part in enumerate(outline.modules)
        ]
        scores, faults = score(case, corpus, outline, lessons, extractive=True)
        assert faults == ()
        assert set(scores.values()) == {1.0}
