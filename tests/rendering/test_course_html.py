import base64
import functools
import hashlib
import importlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.generation import ContentStatus, Course
from rendering.course_html import course_html
from rendering.course_parts import Profile
from rendering.markup import Html, element, sanitised, text
from tests.support.courses import (
    CONTENT,
    DRAFT_RAW,
    HOSTILE,
    LINES,
    PROVENANCE,
    make_content,
    make_course,
    make_lesson,
    make_module,
)

lxml_html: Any = importlib.import_module("lxml.html")  # lxml comes without types

PROFILES: tuple[Profile, ...] = ("full", "minimal")
MARK = "Qplaceholderq"
SHAPELESS = {"p", "br"}
VISIBLE = st.characters(exclude_categories=("Cc", "Cs", "Cn"))
LINE = st.one_of(st.sampled_from(HOSTILE), st.text(VISIBLE), st.text("<>&\"'/=;#! scriptimgonerror-[]"))
PROSE_TEXT = st.lists(LINE, min_size=1, max_size=4).map("\n".join)
FIELDS = CONTENT | {name: make for name, make in PROVENANCE.items() if name.startswith("provenance.")}
THOROUGH = settings(max_examples=30, deadline=None, database=None)  # examples are many; the clock is no judge here


def page(course: Course, profile: Profile = "full") -> Any:
    body = course_html(course, profile=profile)
    return lxml_html.document_fromstring(body, parser=lxml_html.HTMLParser(encoding="utf-8", huge_tree=True))


def shape(document: Any) -> list[tuple[str, dict[str, str]]]:
    """Every element and attribute but the paragraphs and line breaks which prose may bring along."""
    return [(node.tag, dict(node.attrib)) for node in document.iter() if node.tag not in SHAPELESS]


def content(document: Any) -> str:
    return normal(" ".join(document.itertext()))


def normal(value: str) -> str:
    return " ".join(value.split())


class TestBytes:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_equal_courses_give_equal_bytes(self, profile: Profile) -> None:
        body = course_html(make_course(), profile=profile)

        assert body == course_html(make_course(), profile=profile)
        assert body.startswith(b"<!DOCTYPE html>\n")
        assert body.endswith(b"</html>\n")


class TestStructure:
    def test_headings_are_ours_and_no_level_is_skipped(self) -> None:
        found = [(node.tag, normal(node.text_content())) for node in page(make_course()).iter("h1", "h2", "h3", "h4")]

        assert found == [
            ("h1", "Longhaul for Operators"),
            ("h2", "Contents"),
            ("h2", "1 Durable work"),
            ("h3", "1.1 Why work must outlive its process"),
            ("h4", "Objectives"),
            ("h4", "What a crash takes with it"),
            ("h4", "Key points"),
            ("h4", "Terms"),
            ("h3", "1.2 Schedules and missed runs Draft"),
            ("h4", "Objectives"),
            ("h2", "Sources"),
            ("h2", "How this course was made"),
        ]

    @pytest.mark.parametrize("profile", PROFILES)
    def test_ids_are_unique_and_every_link_leads_to_one(self, profile: Profile) -> None:
        document = page(make_course(modules=(make_module(), make_module())), profile)
        ids = document.xpath("//@id")
        named = [place.removeprefix("#") for place in document.xpath("//@href")] + document.xpath("//@aria-labelledby")

        assert len(set(ids)) == len(ids)
        assert set(named) <= set(ids)
        assert document.xpath("//nav//@href") == ["#module-1", "#lesson-1-1", "#module-2", "#lesson-2-1"]

    def test_has_what_assistive_technology_looks_for(self) -> None:
        document = page(make_course())

        assert document.get("lang") == "en"
        assert document.findtext("head/title") == "Longhaul for Operators"
        assert document.xpath("//body/*[1]")[0].get("href") == "#main"
        assert [node.tag for node in document.xpath("//div[@class='page']/*")] == ["header", "nav", "main", "footer"]
        assert document.xpath("//meta[@name='viewport']/@content") == ["width=device-width, initial-scale=1"]

    @pytest.mark.parametrize(
        ("language", "written", "direction", "contents"),
        [
            ("ru", "ru", "ltr", "Содержание"),
            ("pt-BR", "pt-BR", "ltr", "Contents"),
            ("he", "he", "rtl", "Contents"),
            ("az-Arab", "az-Arab", "rtl", "Contents"),
            ('en" onload="x', "und", "ltr", "Contents"),
        ],
    )
    def test_speaks_the_language_of_the_course(
        self, language: str, written: str, direction: str, contents: str
    ) -> None:
        document = page(make_course(language=language))

        assert (document.get("lang"), document.get("dir")) == (written, direction)
        assert document.get_element_by_id("contents").text_content() == contents

    def test_english_words_in_a_page_of_another_language_say_so(self) -> None:
        document = page(make_course(language="de"))

        assert document.xpath("//h2[@id='contents']/span/@lang") == ["en"]
        assert not page(make_course(language="en-GB")).xpath("//body//@lang")

    def test_provenance_is_in_the_full_profile_alone(self) -> None:
        full, minimal = content(page(make_course())), content(page(make_course(), "minimal"))

        for fact in (
            "offline: extractive-1",
            "course-lesson 3",
            "5e" * 32,
            "0.0369",
            "3,600",
            "2026-03-14 09:26:53 UTC",
        ):
            assert fact in full
            assert fact not in minimal
        assert not page(make_course(), "minimal").xpath("//footer")


class TestDrafts:
    def test_a_draft_is_marked_in_the_contents_at_its_heading_and_by_a_box(self) -> None:
        document = page(make_course(), "minimal")

        assert document.xpath("//nav//li[a/@href='#lesson-1-2']/span/text()") == ["Draft"]
        assert document.xpath("//h3[@id='lesson-1-2']/span[@class='badge']/text()") == ["Draft"]
        (box,) = document.xpath("//article[h3/@id='lesson-1-2']/div[@class='draft']")
        assert "did not have the required form" in content(box)
        assert "blocks : needs at least one item" in content(box)
        assert box.xpath("details/pre/code/text()") == [DRAFT_RAW]
        assert document.xpath("//p[@class='incomplete']")

    @pytest.mark.parametrize("status", [status for status in ContentStatus if status is not ContentStatus.READY])
    def test_content_is_not_shown_as_finished_under_any_other_status(self, status: ContentStatus) -> None:
        lesson = make_lesson(status=status, content=make_content())
        document = page(make_course(modules=(make_module(lessons=(lesson,)),)))

        assert "Everything in memory is gone." not in content(document)
        assert document.xpath("//article/div[@class='draft']")

    def test_a_complete_course_says_nothing_of_drafts(self) -> None:
        document = page(make_course(modules=(make_module(),)))

        assert "raft" not in content(document.find("body"))

    def test_a_raw_answer_keeps_its_lines(self) -> None:
        (code,) = page(CONTENT["draft.raw"]("\n  one\n\ttwo")).xpath("//pre/code")

        assert code.text == "\n  one\n\ttwo"


class TestHostileText:
    """Model text is text: it reads as it was written and changes nothing around it."""

    @pytest.mark.parametrize("field", FIELDS)
    def test_adds_no_structure_and_stays_readable(self, field: str) -> None:
        for hostile in HOSTILE:
            assert_is_text(field, hostile)

    @pytest.mark.parametrize("field", [name for name in FIELDS if name in LINES])
    @settings(THOROUGH)
    @given(line=LINE)
    def test_any_line_is_text(self, field: str, line: str) -> None:
        assert_is_text(field, line.replace("\n", " ").strip() or "x")

    @pytest.mark.parametrize("field", [name for name in FIELDS if name not in LINES])
    @settings(THOROUGH)
    @given(prose=PROSE_TEXT)
    def test_any_prose_is_text(self, field: str, prose: str) -> None:
        assert_is_text(field, prose if prose.strip() else "x")

    @pytest.mark.parametrize("field", FIELDS)
    def test_control_characters_become_visible(self, field: str) -> None:
        hostile = "a\x01b\x7fc\x9fd\ufffee\x1bf" if field not in LINES else "a\ufffeb"
        expected = "a␁b␡c\ufffdd\ufffde␛f" if field not in LINES else "a\ufffdb"

        assert expected in content(page(FIELDS[field](hostile)))


class TestPolicy:
    def test_the_policy_allows_this_style_sheet_and_nothing_else(self) -> None:
        document = page(make_course())
        css = document.findtext("head/style")
        digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()

        (policy,) = document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
        assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"

    def test_nothing_runs_and_nothing_is_requested(self) -> None:
        document = page(make_course())

        assert not document.xpath("//script | //img | //link | //iframe | //object | //form | //@style | //@src")
        assert not re.search(r"url\(|@import|</", document.findtext("head/style"))

    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_a_mistake_in_a_template_is_caught_behind_it(self, hostile: str) -> None:
        """Even unescaped, nothing gets through that acts, loads or leads off the page."""
        document = lxml_html.fragment_fromstring(sanitised(element("div", Html(hostile))), create_parent="main")

        assert not document.xpath(
            "//script | //style | //img | //svg | //iframe | //form | //input | //base | //comment()"
        )
        assert not [name for name in document.xpath("//@*") if name.attrname.startswith("on")]
        assert all(re.fullmatch(r"#[a-z0-9-]+", place) for place in document.xpath("//@href"))

    def test_the_allow_list_lets_pass_all_that_we_write(self) -> None:
        link = element("a", text("a < b"), href="#main", class_="skip")

        assert sanitised(link) == link == '<a href="#main" class="skip">a &lt; b</a>'


class TestColours:
    """Text is readable for weak eyes: WCAG 2 asks for a contrast of 4.5."""

    PAIRS = (
        *(("text", "page"), ("muted", "page"), ("link", "page"), ("accent", "page")),
        *(("text", "panel"), ("muted", "panel"), ("accent", "panel"), ("link", "panel")),
        ("draft-text", "draft-page"),
    )

    @pytest.mark.parametrize("theme", ["light", "dark", "print"])
    @pytest.mark.parametrize(("ink", "paper"), PAIRS)
    def test_contrast_is_enough(self, theme: str, ink: str, paper: str) -> None:
        colours = palette(theme)

        assert contrast(colours[ink], colours[paper]) >= 4.5

    @pytest.mark.parametrize("theme", ["light", "dark", "print"])
    def test_the_edge_of_a_draft_can_be_seen(self, theme: str) -> None:
        colours = palette(theme)

        assert contrast(colours["draft-rule"], colours["page"]) >= 3


def palette(theme: str) -> dict[str, str]:
    css = page(make_course()).findtext("head/style")
    roots = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+);", roots[("light", "dark", "print").index(theme)]))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    pairs = [digit * 2 for digit in digits] if len(digits) == 3 else re.findall("..", digits)
    red, green, blue = (_linear(int(pair, 16) / 255) for pair in pairs)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)


def assert_is_text(field: str, hostile: str) -> None:
    """The page has the structure of one with harmless text there, and the text in all its places."""
    written = page(FIELDS[field](hostile))
    plain_shape, plain_content = harmless(field)

    assert shape(written) == plain_shape
    assert content(written) == normal(plain_content.replace(MARK, normal(hostile)))


@functools.cache
def harmless(field: str) -> tuple[list[tuple[str, dict[str, str]]], str]:
    plain = page(FIELDS[field](MARK))
    return shape(plain), content(plain)
