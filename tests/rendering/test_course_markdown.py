import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from domain.generation import ContentStatus, Course, DraftNote
from rendering.course_markdown import course_markdown
from rendering.course_parts import Profile
from tests.support.courses import (
    CONTENT,
    DRAFT_RAW,
    HOSTILE,
    LINES,
    PROVENANCE,
    make_content,
    make_course,
    make_draft,
    make_lesson,
    make_module,
)

PROFILES: tuple[Profile, ...] = ("full", "minimal")
MARK = "Qplaceholderq"
PARSERS = {"CommonMark": MarkdownIt("commonmark", {"html": True}), "GitHub": MarkdownIt("gfm-like", {"linkify": False})}
ANCHOR = re.compile(r'<a id="([a-z0-9-]+)">|</a>')
SHAPELESS = {"text", "softbreak", "hardbreak", "paragraph_open", "paragraph_close", "inline"}
VISIBLE = st.characters(exclude_categories=("Cc", "Cs", "Cn"))
LINE = st.one_of(
    st.sampled_from(HOSTILE), st.text(VISIBLE), st.text("#*_`[]()<>!&;:/\\-+=~|{}$.1 wa\N{NO-BREAK SPACE}")
)
PROSE_TEXT = st.lists(LINE, min_size=1, max_size=4).map("\n".join) | st.text("#*_`[]<>!&;\\-+=~| a\n\t", min_size=1)
THOROUGH = settings(max_examples=30, deadline=None, database=None)  # examples are many; the clock is no judge here


def markdown(course: Course, profile: Profile = "minimal") -> str:
    return course_markdown(course, profile=profile).decode()


def tokens(text: str, parser: str = "CommonMark") -> Iterator[Token]:
    for token in PARSERS[parser].parse(text):
        yield token
        yield from token.children or ()


def shape(text: str, parser: str = "CommonMark") -> list[tuple[str, str, str]]:
    """Everything in the document that is not text; the length of a fence is no structure."""
    return [
        (token.type, token.tag, json.dumps(token.attrs) + (token.content if token.type.startswith("html") else ""))
        for token in tokens(text, parser)
        if token.type not in SHAPELESS
    ]


def content(text: str, parser: str = "CommonMark") -> str:
    """What a reader reads, white space normalised."""
    return normal("".join(_readable(tokens(text, parser))))


def _readable(found: Iterator[Token]) -> Iterator[str]:
    for token in found:
        if token.type in {"text", "code_inline", "fence", "code_block"}:
            yield token.content
        elif token.type in {"softbreak", "hardbreak"} or token.block:
            yield "\n"


def normal(text: str) -> str:
    return " ".join(text.split())


def headings(text: str) -> list[tuple[str, str]]:
    parsed = PARSERS["CommonMark"].parse(text)
    return [
        (token.tag, _plain(parsed[place + 1].children or []))
        for place, token in enumerate(parsed)
        if token.type == "heading_open"
    ]


def _plain(children: Sequence[Token]) -> str:
    return "".join(child.content for child in children if child.type == "text")


def front_matter(text: str) -> dict[str, Any]:
    """Our front matter is JSON values behind plain keys; anything else in it fails here."""
    head = text.removeprefix("---\n").partition("\n---\n")[0]
    facts: dict[str, Any] = {}
    for line in head.split("\n"):
        if line.startswith("  - "):
            facts["lesson_provenance"].append(json.loads(line.removeprefix("  - ")))
        else:
            key, _, value = line.partition(":")
            facts[key] = json.loads(value) if value else []
    return facts


class TestBytes:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_equal_courses_give_equal_bytes(self, profile: Profile) -> None:
        body = course_markdown(make_course(), profile=profile)

        assert body == course_markdown(make_course(), profile=profile)
        assert body.endswith(b"\n")
        assert not body.endswith(b"\n\n")


class TestStructure:
    def test_headings_are_ours_and_in_order(self) -> None:
        assert headings(markdown(make_course())) == [
            ("h1", "Longhaul for Operators"),
            ("h2", "Contents"),
            ("h2", "1. Durable work"),
            ("h3", "1.1 Why work must outlive its process"),
            ("h4", "Objectives"),
            ("h4", "What a crash takes with it"),
            ("h4", "Key points"),
            ("h4", "Terms"),
            ("h3", "1.2 Schedules and missed runs Draft"),
            ("h4", "Objectives"),
            ("h4", "What is wrong with it"),
            ("h4", "The answer as it came, unchecked"),
            ("h2", "Sources"),
        ]

    def test_every_entry_of_the_contents_leads_to_its_place(self) -> None:
        text = markdown(make_course(modules=(make_module(), make_module())))
        targets = [str(token.attrs["href"]) for token in tokens(text) if token.type == "link_open"]
        anchors = [match[1] for match in ANCHOR.finditer(text) if match[1]]

        assert targets == ["#module-1", "#lesson-1-1", "#module-2", "#lesson-2-1"]
        assert len(set(anchors)) == len(anchors)
        assert {target.removeprefix("#") for target in targets} <= set(anchors)

    def test_a_title_chosen_by_the_writer_is_shown_below_the_planned_one(self) -> None:
        lesson = make_lesson(content=make_content(title="A better title"))
        text = markdown(make_course(modules=(make_module(lessons=(lesson,)),)))

        assert "### 1.1 Why work must outlive its process\n\n**A better title**\n" in text

    def test_line_breaks_and_blank_lines_in_prose_are_kept(self) -> None:
        course = CONTENT["block.bullets"]("one\ntwo\n\n\nthree")

        assert "- One\n- one\\\n  two\n\n  three\n- Three" in markdown(course)

    def test_speaks_russian_and_falls_back_to_english(self) -> None:
        assert "## Содержание" in markdown(make_course(language="ru-RU"))
        assert "Черновик" in markdown(make_course(language="ru"))
        assert "## Contents" in markdown(make_course(language="de"))


class TestFrontMatter:
    def test_full_carries_the_metadata(self) -> None:
        text = markdown(make_course(), "full")
        facts = front_matter(text)

        assert facts["title"] == "Longhaul for Operators"
        assert facts["complete"] is False
        assert facts["lessons_by_status"] == {"ready": 1, "draft": 1, "refused": 0, "filtered": 0, "truncated": 0}
        assert facts["cost_usd"] == "0.0369"
        assert [item["lesson"] for item in facts["lesson_provenance"]] == ["1.1", "1.2"]
        assert facts["lesson_provenance"][0]["prompt_version"] == "3"

    def test_minimal_has_none(self) -> None:
        assert markdown(make_course()).startswith("# Longhaul for Operators\n")

    @pytest.mark.parametrize("profile", PROFILES)
    def test_the_body_is_the_same_in_both(self, profile: Profile) -> None:
        assert markdown(make_course(), "full").partition("\n---\n\n")[2] == markdown(make_course())

    @pytest.mark.parametrize("text", [*HOSTILE, 'a"b\\', "a: b # c", "\x7f\x85\u2028\ufeff\uffff", "\nkey: 1\n---\n"])
    @pytest.mark.parametrize("field", [*PROVENANCE, "course.title", "course.sources"])
    def test_no_text_leaves_its_string(self, field: str, text: str) -> None:
        written = markdown((PROVENANCE | LINES)[field](text), "full")

        assert set(front_matter(written)) == set(front_matter(markdown(make_course(), "full")))
        assert text in json.dumps(front_matter(written), ensure_ascii=False) or text in _strings(front_matter(written))
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\uffff]", written.partition("\n---\n")[0])


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


class TestDrafts:
    def test_a_draft_is_marked_in_the_contents_at_its_heading_and_in_its_text(self) -> None:
        text = markdown(make_course())

        assert "  - [1.2 Schedules and missed runs](#lesson-1-2) *Draft*\n" in text
        assert (
            "### 1.2 Schedules and missed runs *Draft*\n\n> **Draft: not part of the finished course**\n>\n> The"
            in text
        )
        assert "- blocks: needs at least one item\n" in text
        assert f"```text\n{DRAFT_RAW}\n```\n" in text
        assert "> **This course is not complete. Lessons still in draft: 1 of 2.**" in text

    @pytest.mark.parametrize("status", [status for status in ContentStatus if status is not ContentStatus.READY])
    def test_content_is_not_shown_as_finished_under_any_other_status(self, status: ContentStatus) -> None:
        lesson = make_lesson(status=status, content=make_content(), draft=None)
        text = markdown(make_course(modules=(make_module(lessons=(lesson,)),)))

        assert "Everything in memory is gone." not in text
        assert "not part of the finished course" in text

    def test_a_ready_lesson_without_content_is_no_finished_lesson(self) -> None:
        text = markdown(make_course(modules=(make_module(lessons=(make_lesson(content=None),)),)))

        assert "Nothing has been written for this lesson." in text

    def test_a_complete_course_says_nothing_of_drafts(self) -> None:
        assert "raft" not in markdown(make_course(modules=(make_module(),)))

    @settings(THOROUGH)
    @given(st.text("`\n a", max_size=40))
    def test_no_raw_answer_gets_out_of_its_fence(self, raw: str) -> None:
        draft = make_draft(draft=DraftNote(raw=raw))
        found = list(tokens(markdown(make_course(modules=(make_module(lessons=(draft,)),)))))

        assert [normal(token.content) for token in found if token.type == "fence"] == [normal(raw)]
        assert not [token for token in found if token.type == "code_inline"]


class TestHostileText:
    """Model text is text: it reads as it was written and changes nothing around it."""

    @pytest.mark.parametrize("parser", PARSERS)
    @pytest.mark.parametrize("field", CONTENT)
    def test_adds_no_structure_and_stays_readable(self, field: str, parser: str) -> None:
        for text in HOSTILE:
            assert_is_text(field, text, parser)

    @pytest.mark.parametrize("field", [name for name in CONTENT if name in LINES])
    @settings(THOROUGH)
    @given(text=LINE)
    def test_any_line_is_text(self, field: str, text: str) -> None:
        assert_is_text(field, text.replace("\n", " ").strip() or "x", "GitHub")

    @pytest.mark.parametrize("field", [name for name in CONTENT if name not in LINES])
    @settings(THOROUGH)
    @given(text=PROSE_TEXT)
    def test_any_prose_is_text(self, field: str, text: str) -> None:
        assert_is_text(field, text if text.strip() else "x", "GitHub")

    @pytest.mark.parametrize("field", CONTENT)
    def test_control_characters_become_visible(self, field: str) -> None:
        text = "a\x01b\x7fc\x9fd\ufffee\x1bf" if field not in LINES else "a\ufffeb"
        expected = "a␁b␡c\ufffdd\ufffde␛f" if field not in LINES else "a\ufffdb"

        assert expected in content(markdown(CONTENT[field](text)))

    @pytest.mark.parametrize("text", ["https://example.org", "see www.example.org.", "WWW.example.org"])
    def test_bare_addresses_are_broken_for_renderers_that_link_them(self, text: str) -> None:
        written = markdown(CONTENT["block.paragraphs"](text))

        assert text not in written
        assert text in content(written)

    def test_the_anchors_are_the_only_html(self) -> None:
        html = [token.content for token in tokens(markdown(make_course())) if "html" in token.type]

        assert html
        assert all(ANCHOR.fullmatch(piece) for piece in html)


def assert_is_text(field: str, text: str, parser: str) -> None:
    """The document has the structure of one with harmless text there, and the text in all its places."""
    written = markdown(CONTENT[field](text))
    plain_shape, plain_content = harmless(field, parser)

    assert shape(written, parser) == plain_shape
    assert content(written, parser) == normal(plain_content.replace(MARK, normal(text)))


@functools.cache
def harmless(field: str, parser: str) -> tuple[list[tuple[str, str, str]], str]:
    plain = markdown(CONTENT[field](MARK))
    return shape(plain, parser), content(plain, parser)
