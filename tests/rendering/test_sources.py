# ruff: noqa: RUF001
# Russian texts are written in Cyrillic.

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import SourceEmpty, SourceNotText
from domain.generation import Section
from rendering.sources import SourceText, build_corpus, decode_source, parse_source
from rendering.sources.script import MAX_SECTION_CHARS

DATA = Path(__file__).parent.parent / "data"
FORMATS = ("md", "html", "txt")
MARKUP = ("**", "`", "](", "<p", "</", "&nbsp;", "| ---", "```", "{#", "[^")


def parse(text: str, ending: str = "md", media_type: str | None = None) -> tuple[Section, ...]:
    return parse_source(name=f"source.{ending}", media_type=media_type, text=text)


def parse_file(name: str) -> tuple[Section, ...]:
    return parse_source(name=name, media_type=None, text=decode_source((DATA / name).read_bytes(), name=name))


def everything(sections: tuple[Section, ...]) -> str:
    return "\n".join(part for one in sections for part in (*one.path, *one.paragraphs, *one.bullets))


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text)


class TestDecodeSource:
    def test_utf8(self) -> None:
        assert decode_source("Вода и ветер".encode(), name="a.txt") == "Вода и ветер"

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_byte_order_mark(self, encoding: str) -> None:
        """A byte order mark tells the encoding and is no part of the text."""
        assert decode_source("Rain, дождь".encode(encoding), name="a.txt") == "Rain, дождь"

    @pytest.mark.parametrize("raw", [b"", b" \n\t ", b"\xef\xbb\xbf", b"\xff\xfe"])
    def test_nothing_in_it(self, raw: bytes) -> None:
        with pytest.raises(SourceEmpty) as caught:
            decode_source(raw, name="empty.md")
        assert caught.value.code == "E.SOURCE.EMPTY"
        assert "empty.md" in caught.value.detail

    @pytest.mark.parametrize(
        "raw",
        [
            b"\x89PNG\r\n\x1a\n\x00\x00",
            "Привет".encode("cp1251"),
            b"text with a \x00 in it",
            b"\x01\x02\x03\x04 a few letters",
            b"\xff\xfeo",
        ],
    )
    def test_not_text(self, raw: bytes) -> None:
        with pytest.raises(SourceNotText) as caught:
            decode_source(raw, name="a.bin")
        assert caught.value.code == "E.SOURCE.NOT_TEXT"

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, raw: bytes) -> None:
        """Bytes are either text with something in it or refused with one of two codes."""
        with suppress(SourceEmpty, SourceNotText):
            assert decode_source(raw, name="a").strip()


class TestFormat:
    @pytest.mark.parametrize(
        ("name", "media_type"),
        [
            ("notes", "text/markdown; charset=utf-8"),
            ("notes.md", None),
            ("notes.MD", "text/plain"),
            ("notes.md", "application/octet-stream"),
        ],
    )
    def test_markdown(self, name: str, media_type: str | None) -> None:
        """A telling media type decides, then the ending of the name."""
        (section,) = parse_source(name=name, media_type=media_type, text="# Wind\n\nIt *blows*.")
        assert (section.path, section.paragraphs) == (("Wind",), ("It blows.",))

    def test_html_by_media_type(self) -> None:
        (section,) = parse("<h1>Wind</h1>It <i>blows</i>.", "txt", "text/html")
        assert (section.path, section.paragraphs) == (("Wind",), ("It blows.",))

    def test_anything_else_is_plain(self) -> None:
        (section,) = parse("*Wind*", "log")
        assert section.paragraphs == ("*Wind*",)


class TestMarkdown:
    def test_document(self) -> None:
        """A real text gives its headings, its running text and its lists, in reading order."""
        sections = parse_file("queues.md")
        assert [one.heading for one in sections][:4] == [
            "Working with message queues",
            "Messages",
            "Workers",
            "Visibility timeout",
        ]
        assert sections[1].path == ("Working with message queues", "How a queue works", "Messages")
        assert sections[1].paragraphs[0].startswith("A message is a small piece of data with a body")
        assert sections[5].bullets[0] == "the fault that caused them has been repaired;"

    def test_no_markup_is_left(self) -> None:
        text = everything(parse_file("queues.md") + parse_file("weather_ru.md"))
        assert not [mark for mark in MARKUP if mark in text]
        assert "glossary.html" not in text
        assert "overview.png" not in text

    def test_code_blocks_are_no_text(self) -> None:
        assert "never appears" not in everything(parse_file("queues.md"))

    def test_inline_code_and_links_keep_their_text(self) -> None:
        (section,) = parse("Run `make up` as [the guide](http://x.y/z) says, ![not](a.png) now.")
        assert section.paragraphs == ("Run make up as the guide says, now.",)

    def test_front_matter(self) -> None:
        """The title of the front matter is a heading; its other fields are not text."""
        (section,) = parse('---\ntitle: "Wind"\ntags: [a, b]\n---\n\nIt blows.')
        assert (section.path, section.paragraphs) == (("Wind",), ("It blows.",))

    def test_a_rule_is_no_front_matter(self) -> None:
        assert "First." in everything(parse("---\n\nFirst.\n\n---\n\nSecond."))

    def test_table_of_two_columns(self) -> None:
        (section,) = parse("| who | what |\n| --- | --- |\n| **wind** | blows |\n| | rains |")
        assert section.bullets == ("wind: blows", "rains")

    def test_table_of_three_columns(self) -> None:
        """From the third column on a cell is understood only with its header."""
        (section,) = parse("| who | what | when |\n| --- | --- | --- |\n| wind | blows | at night |")
        assert section.bullets == ("wind — what: blows; when: at night",)

    def test_table_without_delimiter(self) -> None:
        (section,) = parse("| wind | blows |\n| rain | falls |")
        assert section.bullets == ("wind: blows", "rain: falls")

    def test_table_of_contents(self) -> None:
        """Entries that only lead to a place in the page are not content."""
        (section,) = parse("- [Wind](#wind)\n- [Rain](#rain) falls\n")
        assert section.bullets == ("Rain falls",)

    def test_lesson_extras(self) -> None:
        text = "::: callout\n\n## Wind {#wind .big}\n\nIt blows[^1].\n\n:::\n\n- [x] done\n\n> [!NOTE]\n> Quoted.\n"
        (section,) = parse(text)
        assert section.path == ("Wind",)
        assert section.paragraphs == ("It blows.", "Quoted.")
        assert section.bullets == ("done",)

    def test_html_inside(self) -> None:
        (section,) = parse("<details><summary>More</summary><p>It <b>blows</b>.</p></details>\n\nA<br>B <kbd>C</kbd>")
        assert section.paragraphs == ("More", "It blows.", "A B C")

    def test_stray_emphasis(self) -> None:
        """Asterisks that the standard does not take for emphasis are not shown either."""
        (section,) = parse("Это **«важно»**слово")
        assert "*" not in section.paragraphs[0]

    def test_numbers_of_headings_are_left_out(self) -> None:
        assert parse("## 2.1 Wind\n\nBlows.")[0].path == ("Wind",)
        assert parse("## 3 winds\n\nBlow.")[0].path == ("3 winds",)


class TestHtml:
    def test_document(self) -> None:
        sections = parse_file("night_sky.html")
        assert [one.heading for one in sections] == [
            "The night sky without a telescope",
            "Getting used to the dark",
            "Finding the pole star",
            "Planets and stars",
            "Shooting stars",
        ]
        assert sections[2].bullets[1:] == (
            "Extend the line through its last two stars five times.",
            "The first bright star on that line is the pole star.",
        )
        assert sections[3].bullets[0] == "Venus — Colour: white; Best time: after sunset or before sunrise"

    @pytest.mark.parametrize("noise", ["tracker", "serif", "for sale", "Copyright", "2h 31m", "¶", "<", "&"])
    def test_what_surrounds_the_text_is_left_out(self, noise: str) -> None:
        assert noise not in everything(parse_file("night_sky.html"))

    def test_entities_and_breaks(self) -> None:
        (section,) = parse("<p>wind&nbsp;&amp; rain<br>and &lt;snow&gt;</p>", "html")
        assert section.paragraphs == ("wind & rain and <snow>",)

    def test_loose_text_and_tails(self) -> None:
        (section,) = parse("one <b>two</b> three<nav>no</nav> four<!-- no --> five<p>six</p>seven", "html")
        assert section.paragraphs == ("one two three four five", "six", "seven")

    def test_title_stands_in_for_a_heading(self) -> None:
        assert parse("<title>Wind</title><p>Blows.</p>", "html")[0].path == ("Wind",)

    def test_declared_encoding_does_not_matter(self) -> None:
        """The text is decoded already, whatever it says about itself."""
        text = "<?xml version='1.0' encoding='utf-16'?><meta charset='cp1251'><p>Ветер</p>"
        assert parse(text, "html")[0].paragraphs == ("Ветер",)

    def test_cell_with_blocks(self) -> None:
        """A table used for layout does not swallow headings and paragraphs."""
        (section,) = parse("<table><tr><td><h2>Wind</h2><p>Blows.</p></td></tr></table>", "html")
        assert (section.path, section.paragraphs) == (("Wind",), ("Blows.",))

    @pytest.mark.parametrize("text", ["", "<!-- nothing -->", "<script>x</script>", "<p></p>"])
    def test_nothing_in_it(self, text: str) -> None:
        assert parse(text, "html") == ()


class TestPlain:
    def test_document(self) -> None:
        sections = parse_file("tides.txt")
        assert [one.path for one in sections] == [
            ("TIDES AND HOW TO READ THEM",),
            ("TIDES AND HOW TO READ THEM", "What causes the tide"),
            ("TIDES AND HOW TO READ THEM", "Reading a tide table"),
            ("SAFETY ON THE SHORE",),
        ]
        assert (
            sections[0].paragraphs[0].startswith("Twice a day the sea rises and falls along most coasts of the world.")
        )
        assert sections[2].bullets[0] == "the time of the next high water;"

    def test_underlined_headings(self) -> None:
        sections = parse("Wind\n====\nIt blows.\n\nSpeed\n-----\n\nIt varies.", "txt")
        assert [(one.path, one.paragraphs) for one in sections] == [
            (("Wind",), ("It blows.",)),
            (("Wind", "Speed"), ("It varies.",)),
        ]

    @pytest.mark.parametrize(
        "line",
        ["It blows.", "USA", "12:30", "1. and so on", "A LINE THAT ENDS LIKE A SENTENCE.", "WORD " * 20],
    )
    def test_what_is_no_heading(self, line: str) -> None:
        (section,) = parse(f"{line}\n\nText follows.", "txt")
        assert section.path == ()
        assert len(section.paragraphs) + len(section.bullets) == 2

    def test_numbered_list_with_blank_lines(self) -> None:
        """Numbered lines without text between them are a list, not headings."""
        sections = parse("1. Buy milk\n\n2. Buy eggs\n\n3. Go home\n\nThen rest.", "txt")
        assert sections[0].bullets == ("Buy milk", "Buy eggs")

    def test_chapters(self) -> None:
        sections = parse("Глава 1\n\nВетер дует.\n\nГлава 2\n\nДождь идёт.", "txt")
        assert [one.path for one in sections] == [("Глава 1",), ("Глава 2",)]

    def test_lists(self) -> None:
        (section,) = parse("Bring:\n- a lamp\n  with oil\n- a coat\n\n1) first\n2) second", "txt")
        assert section.paragraphs == ("Bring:",)
        assert section.bullets == ("a lamp with oil", "a coat", "first", "second")

    @settings(deadline=None)
    @given(st.lists(st.text("абвгд efgh.,!?\n•|", min_size=1, max_size=80), max_size=8))
    def test_words_are_neither_lost_nor_invented(self, parts: list[str]) -> None:
        """Lower-case text has no headings, so every word of it comes out, in order."""
        text = "\n\n".join(parts)
        sections = parse(text, "txt")
        found = [word for one in sections for part in (*one.paragraphs, *one.bullets) for word in words(part)]
        assert sorted(found) == sorted(words(text))


class TestSections:
    @pytest.mark.parametrize("ending", FORMATS)
    def test_long_sections_are_split(self, ending: str) -> None:
        """A section is cut between paragraphs; all of its parts keep the heading."""
        paragraph = "The wind blows over the hills and the sea. " * 30
        tag = {"md": "# Wind\n\n{}", "html": "<h1>Wind</h1>{}", "txt": "Wind\n====\n\n{}"}[ending]
        body = "\n\n".join([paragraph] * 20) if ending != "html" else f"<p>{paragraph}</p>" * 20
        sections = parse(tag.format(body), ending)
        assert len(sections) > 3
        assert {one.path for one in sections} == {("Wind",)}
        assert all(sum(map(len, one.paragraphs)) <= MAX_SECTION_CHARS for one in sections)
        assert sum(len(one.paragraphs) for one in sections) == 20

    @pytest.mark.parametrize("unit", ["x", "word ", "A sentence. "])
    def test_one_endless_paragraph(self, unit: str) -> None:
        sections = parse(unit * 20_000, "txt")
        assert all(len(part) <= MAX_SECTION_CHARS for one in sections for part in one.paragraphs)
        assert sum(part.count(unit.strip()) for one in sections for part in one.paragraphs) == 20_000

    def test_headings_without_text_are_dropped(self) -> None:
        assert [one.path for one in parse("# A\n\n## B\n\n## C\n\ntext\n\n# D")] == [("A", "C")]

    def test_unprintable_characters(self) -> None:
        (section,) = parse("a\x07b\u200b soft\u00adhyphen\ufeff \ud800c", "txt")
        assert section.paragraphs == ("ab softhyphen c",)

    @settings(deadline=None)
    @given(st.text(max_size=300), st.sampled_from(FORMATS))
    def test_never_fails(self, text: str, ending: str) -> None:
        """Whatever comes in, what comes out is clean lines, none empty."""
        for section in parse(text, ending):
            parts = (*section.paragraphs, *section.bullets)
            assert parts
            assert all(part == " ".join(part.split()) and any(map(str.isalnum, part)) for part in parts)
            "".join((*parts, *section.path)).encode()

    @settings(deadline=None)
    @given(
        st.lists(st.sampled_from(["# a", "- ", "| a |", "---", "\n", "**", "[b](c)", "> ", "`", "<p>", "  ", "1. "]))
    )
    def test_markdown_pieces_in_any_order(self, pieces: list[str]) -> None:
        parse("\n".join(pieces))
        parse("".join(pieces))


class TestBuildCorpus:
    def test_ids_run_through_all_sources(self) -> None:
        corpus = build_corpus(
            [
                SourceText(name="a.md", text="# A\n\none\n\n# B\n\ntwo"),
                SourceText(name="b.txt", text="three"),
                SourceText(name="c.html", media_type="text/html", text="<p>four</p>"),
            ]
        )
        assert [(one.id, one.source, one.heading) for one in corpus.sections] == [
            ("s1", "a.md", "A"),
            ("s2", "a.md", "B"),
            ("s3", "b.txt", "b.txt"),
            ("s4", "c.html", "c.html"),
        ]

    def test_nothing_in_nothing_out(self) -> None:
        assert build_corpus([]).sections == ()
        assert build_corpus([SourceText(name="a.md", text="# Only a heading")]).sections == ()
