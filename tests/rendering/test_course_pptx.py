import io
import re
import subprocess
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pptx import Presentation
from pptx.opc.constants import RELATIONSHIP_TYPE

from domain.generation import Course, LessonBlock
from rendering.course_parts import one_line, visible
from rendering.course_pptx import course_pptx
from rendering.pptx_shortcuts import package_files
from rendering.text_width import LINE_UNITS, cut, width, wrapped
from tests.support.courses import CONTENT, HOSTILE, make_content, make_course, make_draft, make_lesson, make_module
from tests.support.judges import program

_NOT_SHOWN = {"course.topic", "draft.raw"}  # a property of the file; only in the other exports
_IN_SLIDES = [field for field in CONTENT if field not in _NOT_SHOWN]


def opened(course: Course, profile: Any = "minimal") -> Any:
    return Presentation(io.BytesIO(course_pptx(course, profile=profile)))


def texts(deck: Any) -> list[str]:
    """All text on slides and in notes."""
    return [
        paragraph.text
        for slide in deck.slides
        for shapes in (slide.shapes, slide.notes_slide.shapes if slide.has_notes_slide else ())
        for shape in shapes
        if shape.has_text_frame
        for paragraph in shape.text_frame.paragraphs
    ]


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def with_blocks(*blocks: LessonBlock) -> Course:
    return make_course(modules=(make_module(lessons=(make_lesson(content=make_content(blocks=blocks)),)),))


class TestStructure:
    def test_layouts_and_titles(self) -> None:
        found = [(slide.slide_layout.name, slide.shapes.title.text) for slide in opened(make_course(), "full").slides]

        assert found == [
            ("Title Slide", "Longhaul for Operators"),
            ("Title and Content", "Contents"),
            ("Section Header", "1. Durable work"),
            ("Title and Content", "1.1 Why work must outlive its process"),
            ("Title and Content", "What a crash takes with it"),
            ("Title and Content", "Key points"),
            ("Title and Content", "Terms"),
            ("Title and Content", "1.2 Schedules and missed runs"),
            ("Title and Content", "Sources"),
            ("Title and Content", "How this course was made"),
        ]

    def test_one_section_a_module_and_every_slide_in_one(self) -> None:
        deck = opened(make_course(modules=(make_module(), make_module(title="Second"))))
        sections = deck.part._element.xpath("//*[local-name()='section']")
        held = [ident for one in sections for ident in one.xpath(".//*[local-name()='sldId']/@id")]

        assert [one.get("name") for one in sections[1:3]] == ["1. Durable work", "2. Second"]
        assert held == [str(slide.slide_id) for slide in deck.slides]

    def test_notes_have_the_whole_text(self) -> None:
        long = "First sentence. Second sentence, which is not on the slide."
        deck = opened(with_blocks(LessonBlock(heading="Heading", paragraphs=(long,), bullets=())))
        slide = next(slide for slide in deck.slides if slide.shapes.title.text == "Heading")

        assert slide.placeholders[1].text_frame.text == "First sentence."
        assert slide.notes_slide.notes_text_frame.text == long

    def test_a_draft_says_so_and_shows_no_content(self) -> None:
        deck = opened(make_course(modules=(make_module(lessons=(make_draft(content=make_content()),)),)))

        assert "Draft: not part of the finished course" in texts(deck)
        assert "Everything in memory is gone." not in " ".join(texts(deck))

    def test_files_are_those_that_python_pptx_would_write(self) -> None:
        deck = opened(make_course(), "full")
        file = io.BytesIO()
        deck.save(file)
        with zipfile.ZipFile(file) as package:
            written = {name: package.read(name) for name in package.namelist()}

        assert package_files(deck) == written

    def test_slides_and_notes_are_numbered_without_gaps_and_named_once(self) -> None:
        """Also where they were copied: as in a deck that was made slide by slide."""
        deck = opened(make_course(modules=(make_module(), make_module(title="Second"))), "full")
        slides = list(deck.slides)

        assert [slide.slide_id for slide in slides] == list(range(256, 256 + len(slides)))
        assert [str(slide.part.partname) for slide in slides] == [
            f"/ppt/slides/slide{number}.xml" for number in range(1, len(slides) + 1)
        ]
        notes = [slide.notes_slide for slide in slides if slide.has_notes_slide]
        assert len({str(one.part.partname) for one in notes}) == len(notes) > 2
        assert all(
            one.part.part_related_by(RELATIONSHIP_TYPE.SLIDE) is slide.part
            for one, slide in zip(notes, (slide for slide in slides if slide.has_notes_slide), strict=True)
        )
        assert all(len({shape.shape_id for shape in slide.shapes}) == len(slide.shapes) for slide in slides)

    def test_properties_are_those_of_the_course(self) -> None:
        facts = opened(make_course(language="ru")).core_properties

        assert (facts.title, facts.author, facts.language, facts.revision) == (
            "Longhaul for Operators",
            "Longhaul",
            "ru",
            1,
        )
        assert facts.created == facts.modified == datetime(2026, 3, 14, 9, 26, 53)  # noqa: DTZ001 - the format's are naive

    @pytest.mark.parametrize(("language", "direction"), [("he", {"1"}), ("en", {None})])
    def test_direction(self, language: str, direction: set[str | None]) -> None:
        deck = opened(make_course(language=language))
        runs = deck.slides[0].shapes.title.text_frame.paragraphs

        assert {one._p.get_or_add_pPr().get("rtl") for one in runs} == direction


class TestText:
    @pytest.mark.parametrize("field", _IN_SLIDES)
    def test_every_text_is_there_as_text(self, field: str) -> None:
        for hostile in HOSTILE:
            if len(hostile) < 100:
                shown = squeezed(" ".join(texts(opened(CONTENT[field](hostile)))))
                assert squeezed(one_line(visible(hostile)))[:60] in shown, hostile

    def test_a_long_text_goes_on_several_slides_that_are_numbered(self) -> None:
        bullets = tuple(f"{number} " + "word " * 60 for number in range(8))
        deck = opened(with_blocks(LessonBlock(heading="Heading", paragraphs=(), bullets=bullets)))
        slides = [slide for slide in deck.slides if slide.shapes.title.text.startswith("Heading (")]

        assert [slide.shapes.title.text for slide in slides] == [f"Heading ({n}/4)" for n in range(1, 5)]
        assert [line for slide in slides for line in slide.placeholders[1].text_frame.text.split("\n")] == [
            bullet.strip() for bullet in bullets
        ]

    def test_a_word_of_ten_thousand_characters_is_cut_and_not_lost(self) -> None:
        deck = opened(with_blocks(LessonBlock(heading="Heading", paragraphs=(), bullets=("w" * 10_000,))))
        bodies = [one.placeholders[1].text_frame.text for one in deck.slides if "Heading" in one.shapes.title.text]

        assert "".join(bodies) == "w" * 10_000
        assert max(map(len, bodies)) <= 12 * LINE_UNITS

    @settings(deadline=None, database=None)
    @given(st.text())
    def test_rows_are_the_text_and_none_is_too_wide(self, text: str) -> None:
        rows = wrapped(one_line(text))

        assert "".join(rows) == one_line(text)
        assert all(width(row.rstrip()) <= LINE_UNITS for row in rows)

    @settings(deadline=None, database=None)
    @given(st.text(), st.integers(3, 50))
    def test_what_is_cut_fits(self, text: str, units: int) -> None:
        assert width(cut(text, units)) <= units


class TestLibreOffice:
    def test_reads_every_slide(self, tmp_path: Path) -> None:
        office = program("soffice", "libreoffice")
        file = tmp_path / "course.pptx"
        file.write_bytes(course_pptx(CONTENT["block.bullets"]("Щ" * 3_000 + " <b> =1+1 \x00 עברית"), profile="full"))
        command = [office, "--headless", f"-env:UserInstallation=file://{tmp_path}/office", "--convert-to", "pdf"]
        subprocess.run([*command, "--outdir", tmp_path, file], check=True, timeout=150, capture_output=True)
        pages = re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / "course.pdf").read_bytes())

        assert len(pages) == len(Presentation(str(file)).slides)
