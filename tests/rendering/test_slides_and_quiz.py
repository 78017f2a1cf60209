"""Decks and questions in the exports; what the slides and the LMS are told."""

import io
import json
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from lxml import html  # type: ignore[import-untyped]
from pptx import Presentation

from domain.generation import Course, Export, Quiz, SlideDeck, SlideFigure
from rendering.course_json import course_json
from rendering.course_parts import one_line, visible
from rendering.course_pptx import course_pptx
from rendering.course_scorm import course_scorm
from rendering.exports import render
from rendering.slide_figures import figures
from tests.rendering.test_course_pptx import squeezed
from tests.rendering.test_course_site import files
from tests.support.courses import (
    HOSTILE,
    SLIDES,
    make_course,
    make_draft,
    make_lesson,
    make_module,
    make_provenance,
    make_question,
    make_slide,
)
from tests.support.judges import page_in_browser


def course_with(**changes: Any) -> Course:
    return make_course(modules=(make_module(lessons=(make_lesson(**changes),)),))


def course_with_quiz() -> Course:
    questions = (make_question(), make_question(question="And the other one?", answer=0))
    return course_with(quiz=Quiz(questions=questions), quiz_provenance=make_provenance(prompt_id="course-quiz"))


def slides_of(course: Course) -> list[Any]:
    return list(Presentation(io.BytesIO(course_pptx(course, profile="minimal"))).slides)


def shown(slide: Any) -> str:
    """Everything on a slide and in its notes."""
    tables = [cell.text for shape in slide.shapes if shape.has_table for cell in shape.table.iter_cells()]
    frames = [shape.text_frame.text for shape in slide.shapes if shape.has_text_frame]
    return " ".join([*frames, *tables, slide.notes_slide.notes_text_frame.text if slide.has_notes_slide else ""])


class TestDeck:
    def test_takes_the_place_of_the_text(self) -> None:
        deck = SlideDeck(slides=(make_slide(), make_slide(title="Only a table", bullets=())))
        slides = slides_of(course_with(slides=deck))
        found = {slide.shapes.title.text: slide for slide in slides}

        assert "What a crash takes with it" not in found  # the heading of the block
        assert found["What a crash takes"].slide_layout.name == "Title and Content"
        assert found["Only a table"].slide_layout.name == "Title Only"
        assert found["What a crash takes"].notes_slide.notes_text_frame.text == "Say it twice.\nThen show the table."
        (table,) = [shape.table for shape in found["Only a table"].shapes if shape.has_table]
        assert [[cell.text for cell in row.cells] for row in table.rows] == [
            ["Thing", "Fate"], ["Memory", "gone"], ["Disk", "still there"],
        ]  # fmt: skip

    def test_a_long_table_goes_on_below_its_headings(self) -> None:
        rows = tuple((f"Row {number}", "word " * 30) for number in range(12))
        figure = SlideFigure(caption="Long", header=("Name", "Text"), rows=rows)
        pieces = figures(figure, first=12.0)

        assert len(pieces) > 1
        assert all(piece.rows[0] == figure.header and piece.lines <= 12.0 for piece in pieces)
        assert [row[0] for piece in pieces for row in piece.rows[1:]] == [row[0] for row in rows]
        assert figures(figure, first=1.0) == []

    def test_missing_slides_are_told_of_in_the_notes(self) -> None:
        slides = slides_of(course_with(slides_provenance=make_provenance()))
        assert any("No slides could be made" in shown(slide) for slide in slides)
        assert "What a crash takes with it" in [slide.shapes.title.text for slide in slides]

    @pytest.mark.parametrize("field", SLIDES)
    def test_every_text_is_there_as_text(self, field: str) -> None:
        for hostile in HOSTILE:
            line = one_line(visible(hostile))
            if len(hostile) < 100 and line:
                course = SLIDES[field](line)
                assert squeezed(line)[:60] in squeezed(" ".join(map(shown, slides_of(course)))), hostile
                assert json.loads(course_json(course, profile="full"))["modules"][0]["lessons"][0]["slides"]

    def test_a_question_is_a_slide_with_the_answer_in_its_notes(self) -> None:
        (slide,) = [one for one in slides_of(course_with_quiz()) if one.shapes.title.text == make_question().question]
        assert slide.placeholders[1].text_frame.text.split("\n")[1] == "B. What was written down"
        assert slide.notes_slide.notes_text_frame.text.startswith("Answer: B. What was written down")


class TestQuiz:
    def test_a_draft_shows_no_questions(self) -> None:
        draft = make_draft(quiz=Quiz(questions=(make_question(),)), quiz_provenance=make_provenance())
        course = make_course(modules=(make_module(lessons=(draft,)),))
        for export in (Export.HTML, Export.MARKDOWN, Export.JSON):
            assert make_question().question.encode() not in render(course, export=export, profile="minimal").body

    @pytest.mark.parametrize("export", [Export.HTML, Export.MARKDOWN, Export.MDX])
    def test_a_missing_quiz_is_told_of(self, export: Export) -> None:
        course = course_with(quiz_provenance=make_provenance())
        assert b"No questions could be made" in render(course, export=export, profile="minimal").body

    def test_in_html_answers_are_folded_away(self) -> None:
        page = html.document_fromstring(render(course_with_quiz(), export=Export.HTML, profile="full").body.decode())
        first, _second = page.xpath("//section[@class='quiz']//ol[@class='questions']/li")

        assert first.xpath("./ol/li/text()") == list(make_question().options)
        assert not first.xpath("./details/@open")
        assert "B. What was written down" in first.xpath("string(./details)")
        assert not page.xpath("//script")

    def test_nothing_of_it_is_there_where_there_is_no_quiz(self) -> None:
        for export in (Export.HTML, Export.SITE, Export.SCORM):
            body = render(make_course(), export=export, profile="full").body
            pages = files(body).values() if body.startswith(b"PK") else [body]
            assert not any(b"quiz" in page for page in pages)

    def test_origins_are_in_the_ledger(self) -> None:
        body = render(course_with_quiz(), export=Export.HTML, profile="full").body
        assert b"course-quiz" in body
        document = json.loads(course_json(course_with_quiz(), profile="full"))
        assert document["totals"]["calls"] == 3
        assert (
            "quiz_provenance"
            not in json.loads(course_json(course_with_quiz(), profile="minimal"))["modules"][0]["lessons"][0]
        )


# An LMS whose learner answers the first question right and the second wrong, then reports what it heard.
_LMS = """<!doctype html><title>LMS</title><pre id="log"></pre><script>
const log = (...said) => { document.getElementById('log').textContent += said.join(' ') + '\\n'; return 'true' }
window.API = {LMSInitialize: () => 'true', LMSFinish: () => 'true', LMSCommit: () => 'true',
  LMSGetValue: () => 'not attempted', LMSSetValue: (name, value) => name.includes('score') ? log(name, value) : 'true'}
const answer = () => {
  const page = document.querySelector('iframe').contentDocument
  page.querySelectorAll('.questions > li').forEach((question, number) => {
    log('hidden', question.querySelector('details').hidden)
    question.querySelectorAll('input')[1].click()
    question.querySelector('button').click()
    log(question.querySelector('.said').textContent, 'open', question.querySelector('details').open)
  })
  log(page.querySelector('.score').textContent)
}
</script><iframe src="lesson-1-1.html" width="800" height="400" onload="answer()"></iframe>"""


class TestSco:
    def test_the_lms_hears_the_score(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(io.BytesIO(course_scorm(course_with_quiz(), profile="full"))) as package:
            package.extractall(tmp_path)
        (tmp_path / "lms.html").write_text(_LMS)
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(tmp_path))) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            after = page_in_browser(f"http://127.0.0.1:{server.server_port}/lms.html", tmp_path / "browser")
            server.shutdown()

        assert html.document_fromstring(after).get_element_by_id("log").text_content().splitlines() == [
            "hidden true", "Right. open true", "hidden true",
            "cmi.core.score.min 0", "cmi.core.score.max 100", "cmi.core.score.raw 50",
            "Not right. open true", "Right answers: 1 of 2",
        ]  # fmt: skip


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""
