"""Courses for tests: a sound one to vary, and one with a given text in a given place."""

# ruff: noqa: RUF001 - letters of every alphabet are meant

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from domain.generation import (
    ContentStatus,
    Course,
    DraftNote,
    KeyTerm,
    Lesson,
    LessonBlock,
    LessonContent,
    Module,
    Provenance,
    Quiz,
    QuizQuestion,
    Slide,
    SlideDeck,
    SlideFigure,
)

GENERATED_AT = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
DRAFT_RAW = '{"title": "Schedules", "blocks": []}'


def make_provenance(**changes: Any) -> Provenance:
    """The origin of one paid call."""
    facts: dict[str, Any] = {
        "provider": "offline",
        "model": "extractive-1",
        "prompt_id": "course-lesson",
        "prompt_version": "3",
        "prompt_sha256": "5e" * 32,
        "input_tokens": 1_200,
        "output_tokens": 800,
        "cost_usd": Decimal("0.012300"),
        "calls": 1,
        "cached": False,
        "generated_at": GENERATED_AT,
    }
    return Provenance(**facts | changes)


def make_content(**changes: Any) -> LessonContent:
    """A written lesson with something in each of its parts."""
    facts: dict[str, Any] = {
        "title": "Why work must outlive its process",
        "summary": "A process may end at any moment. The work must not.",
        "blocks": (
            LessonBlock(
                heading="What a crash takes with it",
                paragraphs=("Everything in memory is gone.", "What was written down is still there."),
                bullets=("Open connections", "Half-finished calls"),
            ),
        ),
        "key_points": ("Write down each step before the next one starts.",),
        "terms": (KeyTerm(term="Event history", definition="The record from which a workflow is rebuilt."),),
    }
    return LessonContent(**facts | changes)


def make_question(**changes: Any) -> QuizQuestion:
    """A question with three options, of which the second is right."""
    facts: dict[str, Any] = {
        "question": "What is still there after a crash?",
        "options": ("Open connections", "What was written down", "Half-finished calls"),
        "answer": 1,
        "explanation": "Only what was written down outlives the process.",
        "evidence": "What was written down is still there.",
    }
    return QuizQuestion(**facts | changes)


def make_slide(**changes: Any) -> Slide:
    """A slide with a table."""
    facts: dict[str, Any] = {
        "title": "What a crash takes",
        "bullets": ("Everything in memory is gone.",),
        "notes": "Say it twice.\n\nThen show the table.",
        "figure": SlideFigure(
            caption="What is lost", header=("Thing", "Fate"), rows=(("Memory", "gone"), ("Disk", "still there"))
        ),
    }
    return Slide(**facts | changes)


def make_lesson(**changes: Any) -> Lesson:
    """A finished lesson."""
    facts: dict[str, Any] = {
        "index": 1,
        "title": "Why work must outlive its process",
        "objectives": ("Name what a crash destroys",),
        "status": ContentStatus.READY,
        "content": make_content(),
        "section_ids": ("s1", "s2"),
        "provenance": make_provenance(),
    }
    return Lesson(**facts | changes)


def make_draft(**changes: Any) -> Lesson:
    """A lesson that did not come out right."""
    facts: dict[str, Any] = {
        "index": 2,
        "title": "Schedules and missed runs",
        "objectives": ("Choose a catch-up rule",),
        "status": ContentStatus.DRAFT,
        "content": None,
        "draft": DraftNote(raw=DRAFT_RAW, errors=(("blocks", "needs at least one item"),)),
        "provenance": make_provenance(calls=2),
    }
    return make_lesson(**facts | changes)


def make_module(**changes: Any) -> Module:
    """A module with one finished lesson."""
    facts: dict[str, Any] = {
        "index": 1,
        "title": "Durable work",
        "summary": "What it takes to finish what was started.",
        "lessons": (make_lesson(),),
    }
    return Module(**facts | changes)


def make_course(**changes: Any) -> Course:
    """A course with one finished lesson and one draft."""
    facts: dict[str, Any] = {
        "id": UUID("01890a5d-ac96-774b-bcce-b302099a8057"),
        "title": "Longhaul for Operators",
        "description": "How to run long jobs and sleep at night.",
        "topic": "Operating durable workflows",
        "audience": "on-call engineers",
        "language": "en",
        "level": "intermediate",
        "modules": (make_module(lessons=(make_lesson(), make_draft())),),
        "sources": ("handbook.md",),
        "outline_provenance": make_provenance(prompt_id="course-outline", prompt_sha256="a1" * 32),
        "generated_at": GENERATED_AT,
    }
    return Course(**facts | changes)


def _with_lesson(lesson: Lesson) -> Course:
    return make_course(modules=(make_module(lessons=(lesson,)),))


def _with_content(**changes: Any) -> Course:
    """Copied, not validated: the renderers must stand also what the domain would have refused."""
    return _with_lesson(make_lesson(content=make_content().model_copy(update=changes)))


def _with_block(**changes: Any) -> Course:
    block = LessonBlock(heading="Heading", paragraphs=("First.", "Last."), bullets=("One", "Three"))
    return _with_content(blocks=(block.model_copy(update=changes),))


def _with_term(**changes: Any) -> Course:
    term = KeyTerm(term="Term", definition="Meaning.")
    return _with_content(terms=(term.model_copy(update=changes),))


def _with_quiz(**changes: Any) -> Course:
    question = make_question().model_copy(update=changes)
    return _with_lesson(make_lesson(quiz=Quiz(questions=(question,)), quiz_provenance=make_provenance()))


def _with_slide(**changes: Any) -> Course:
    deck = SlideDeck(slides=(make_slide().model_copy(update=changes),))
    return _with_lesson(make_lesson(slides=deck, slides_provenance=make_provenance()))


def _with_figure(**changes: Any) -> Course:
    figure = make_slide().figure
    assert figure is not None
    return _with_slide(figure=figure.model_copy(update=changes))


def _with_provenance(**changes: Any) -> Course:
    return _with_lesson(make_lesson(provenance=make_provenance(**changes)))


LINES: dict[str, Callable[[str], Course]] = {
    "course.title": lambda text: make_course(title=text),
    "course.topic": lambda text: make_course(topic=text),
    "course.audience": lambda text: make_course(audience=text),
    "course.level": lambda text: make_course(level=text),
    "course.sources": lambda text: make_course(sources=("a.md", text)),
    "module.title": lambda text: make_course(modules=(make_module(title=text),)),
    "lesson.title": lambda text: _with_lesson(make_lesson(title=text)),
    "lesson.objectives": lambda text: _with_lesson(make_lesson(objectives=("First", text))),
    "draft.title": lambda text: _with_lesson(make_draft(title=text)),
    "draft.error path": lambda text: _with_lesson(make_draft(draft=DraftNote(raw="{}", errors=((text, "is bad"),)))),
    "content.title": lambda text: _with_content(title=text),
    "block.heading": lambda text: _with_block(heading=text),
    "term.term": lambda text: _with_term(term=text),
    "quiz.question": lambda text: _with_quiz(question=text),
    "quiz.options": lambda text: _with_quiz(options=("First", text, "Third")),
}
"""A course for each place that holds one line, given what to put there."""

PROSE: dict[str, Callable[[str], Course]] = {
    "course.description": lambda text: make_course(description=text),
    "module.summary": lambda text: make_course(modules=(make_module(summary=text),)),
    "draft.error message": lambda text: _with_lesson(make_draft(draft=DraftNote(raw="{}", errors=(("path", text),)))),
    "content.summary": lambda text: _with_content(summary=text),
    "block.paragraphs": lambda text: _with_block(paragraphs=("First.", text, "Last.")),
    "block.bullets": lambda text: _with_block(bullets=("One", text, "Three")),
    "content.key_points": lambda text: _with_content(key_points=("First", text)),
    "term.definition": lambda text: _with_term(definition=text),
    "quiz.explanation": lambda text: _with_quiz(explanation=text),
}
"""A course for each place that holds prose, which may run over several lines."""

SLIDES: dict[str, Callable[[str], Course]] = {
    "slide.title": lambda text: _with_slide(title=text),
    "slide.bullets": lambda text: _with_slide(bullets=("First", text)),
    "slide.notes": lambda text: _with_slide(notes=text),
    "figure.header": lambda text: _with_figure(header=("Thing", text)),
    "figure.rows": lambda text: _with_figure(rows=(("Memory", text), ("Disk", "still there"))),
}
"""A course for each place of a deck, which the slides show and the JSON holds."""

RAW: dict[str, Callable[[str], Course]] = {
    "draft.raw": lambda text: _with_lesson(make_draft(draft=DraftNote(raw=text))),
}
"""A course for each place that holds an answer as it came."""

PROVENANCE: dict[str, Callable[[str], Course]] = {
    "provenance.provider": lambda text: _with_provenance(provider=text),
    "provenance.model": lambda text: _with_provenance(model=text),
    "provenance.prompt_id": lambda text: _with_provenance(prompt_id=text),
    "provenance.prompt_version": lambda text: _with_provenance(prompt_version=text),
    "provenance.prompt_sha256": lambda text: _with_provenance(prompt_sha256=text),
    "lesson.section_ids": lambda text: _with_lesson(make_lesson(section_ids=("s1", text))),
}
"""A course for each place in the metadata."""

CONTENT = LINES | PROSE | RAW
"""Every place whose text a reader sees in both profiles."""

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)><path d='M0 0'/></svg>",
    '"><a href="javascript:alert(1)">x</a>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</pre></code></details></div><h1>x</h1>",
    "]]><![CDATA[<script>alert(1)</script>]]>",
    "<!-- a comment --><!--",
    "--><b>x</b>",
    "<?php echo 1 ?>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<base href=//example.org><form action=//example.org><input>",
    "<a id=contents name=main href=#main>x</a>",
    "&lt;script&gt; &#60;script&#62; &copy; &amp;amp; AT&T;",
    "$body $css ${title} {0} {title} %s",
    "# Heading",
    "text #",
    "## Heading ##",
    "Heading\n===",
    "Heading\n---",
    "Heading\n\n---\n\nHeading\n-",
    "---\ntitle: x\n---",
    "> quote\n>> deeper",
    "- item\n+ item\n* item\n- [ ] task",
    "1. item\n2) item\n123456789. item\n3.14 stays",
    "    indented code\n\tand with a tab",
    "```\nfence\n```",
    "~~~html\nfence\n~~~",
    "`````````` long fence `` ` ``` ",
    "```\n</code></pre><script>alert(1)</script>\n``````",
    "[x](javascript:alert(1))",
    "[x](<javascript:alert(1)> 'title')",
    "![x](https://example.org/pixel.png)",
    "[x]: https://example.org 'title'\n[x]",
    "[contents]: javascript:alert(1)",
    "[^1]: footnote\n\n[^1]",
    "](#module-1) [x][y] [][] ]][[",
    "<https://example.org> <user@example.org>",
    "https://example.org www.example.org WWW.EXAMPLE.ORG ftp://example.org mailto:user@example.org",
    "| a | b |\n| - | - |\n| 1 | 2 |",
    "a\n:-",
    "*emphasis* _emphasis_ **strong** __strong__ ~~gone~~ ***",
    "snake_case 2*3*4 a**b**c _",
    "ends with a backslash\\",
    "\\ \\\\ \\< \\[x](y) \\\nnext",
    "two spaces  \nbreak",
    "text ending in !\n[x](y)",
    "import x from 'y'\nexport default {alert(1)}",
    "$x^2$ and $$y$$",
    ": definition\n= x\n=x",
    "word" * 5_000,
    "[" * 500 + "*" * 500 + "`" * 501 + "<" * 500,
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe \N{ZERO WIDTH SPACE} \N{BYTE ORDER MARK}",
    "Курс «Длинные задачи» — 日本語 עברית \N{PARTY POPPER} e\N{COMBINING ACUTE ACCENT}",
    "no\N{NO-BREAK SPACE}break \N{EM SPACE}#\N{IDEOGRAPHIC SPACE}- x",
)
"""Texts that would be something else than text if anything forgot to escape them."""
