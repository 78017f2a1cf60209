import json
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.generation import ContentStatus, Course, Export
from rendering.course_json import FullCourse, MinimalCourse, course_json, course_json_schema
from rendering.course_parts import Profile
from rendering.exports import render, slug_of
from tests.support.courses import (
    CONTENT,
    DRAFT_RAW,
    GENERATED_AT,
    HOSTILE,
    LINES,
    PROVENANCE,
    make_content,
    make_course,
    make_draft,
    make_lesson,
    make_module,
    make_provenance,
)

PROFILES: tuple[Profile, ...] = ("full", "minimal")
STORABLE = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)


def parsed(course: Course, profile: Profile = "full") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(course_json(course, profile=profile))
    return document


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


class TestBytes:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_equal_courses_give_equal_bytes(self, profile: Profile) -> None:
        """Also where the same moment and the same amount are written differently."""
        moved = GENERATED_AT.astimezone(timezone(timedelta(hours=3)))
        lessons = (
            make_lesson(provenance=make_provenance(cost_usd=Decimal("0.0123"), generated_at=moved)),
            make_draft(),
        )
        other = make_course(modules=(make_module(lessons=lessons),), generated_at=moved)

        assert other == make_course()
        assert course_json(other, profile=profile) == course_json(make_course(), profile=profile)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_is_readable_utf_8_ending_in_a_newline(self, profile: Profile) -> None:
        body = course_json(make_course(title="Длинные задачи"), profile=profile)

        assert "Длинные задачи" in body.decode()
        assert body.endswith(b"}\n")

    def test_keys_keep_their_order(self) -> None:
        head = ["format", "schema_version", "profile", "title", "description", "topic", "audience", "language"]

        assert list(parsed(make_course()))[: len(head)] == head


class TestProfiles:
    def test_full_tells_where_everything_comes_from(self) -> None:
        document = parsed(make_course())

        lesson = document["modules"][0]["lessons"][0]
        assert lesson["section_ids"] == ["s1", "s2"]
        assert lesson["provenance"] == {
            "provider": "offline",
            "model": "extractive-1",
            "prompt_id": "course-lesson",
            "prompt_version": "3",
            "prompt_sha256": "5e" * 32,
            "input_tokens": 1_200,
            "output_tokens": 800,
            "cost_usd": "0.0123",
            "calls": 1,
            "cached": False,
            "generated_at": "2026-03-14T09:26:53Z",
        }

    def test_full_adds_up(self) -> None:
        """The outline and two lessons, one of them repaired."""
        assert parsed(make_course())["totals"] == {
            "modules": 1,
            "lessons": 2,
            "lessons_by_status": {"ready": 1, "draft": 1, "refused": 0, "filtered": 0, "truncated": 0},
            "input_tokens": 3_600,
            "output_tokens": 2_400,
            "calls": 4,
            "cost_usd": "0.0369",
            "complete": False,
        }

    def test_minimal_is_the_content_alone(self) -> None:
        body = course_json(make_course(), profile="minimal").decode()

        for key in ("provenance", "prompt", "tokens", "cost", "section_ids", "generated_at"):
            assert key not in body
        assert "Write down each step before the next one starts." in body

    @pytest.mark.parametrize("profile", PROFILES)
    def test_a_draft_is_never_content(self, profile: Profile) -> None:
        lesson = parsed(make_course(), profile)["modules"][0]["lessons"][1]

        assert (lesson["status"], lesson["content"]) == ("draft", None)
        assert lesson["draft"]["raw"] == DRAFT_RAW

    def test_content_beside_another_status_is_not_handed_out_as_content(self) -> None:
        odd = make_lesson(status=ContentStatus.TRUNCATED, content=make_content())
        course = make_course(modules=(make_module(lessons=(odd,)),))

        assert parsed(course)["modules"][0]["lessons"][0]["content"] is None


class TestSchema:
    @pytest.mark.parametrize(("profile", "model"), [("full", FullCourse), ("minimal", MinimalCourse)])
    def test_a_document_reads_back_as_its_model(
        self, profile: Profile, model: type[FullCourse | MinimalCourse]
    ) -> None:
        body = course_json(make_course(), profile=profile)

        assert model.model_validate_json(body).model_dump_json(indent=2).encode() + b"\n" == body

    @pytest.mark.parametrize("profile", PROFILES)
    def test_the_schema_names_exactly_the_keys_of_the_document(self, profile: Profile) -> None:
        schema = course_json_schema(profile)

        assert schema["$schema"].startswith("https://json-schema.org/draft/2020-12/")
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) == set(schema["properties"]) == set(parsed(make_course(), profile))

    def test_amounts_are_strings_and_moments_have_a_zone(self) -> None:
        provenance = course_json_schema("full")["$defs"]["FullProvenance"]["properties"]

        assert provenance["cost_usd"]["type"] == "string"
        assert provenance["generated_at"]["format"] == "date-time"


class TestText:
    @pytest.mark.parametrize("field", CONTENT)
    @settings(max_examples=30, deadline=None, database=None)
    @given(text=STORABLE)
    def test_any_storable_text_comes_back_unchanged(self, field: str, text: str) -> None:
        """A program gets the text itself: nothing is escaped, shortened or made visible for it."""
        if field in LINES:
            text = "".join(char for char in text if char.isprintable()).strip() or "x"
        course = CONTENT[field](text)

        assert text in strings(parsed(course, "minimal"))
        assert FullCourse.model_validate_json(course_json(course, profile="full")).title == course.title

    @pytest.mark.parametrize("field", PROVENANCE)
    def test_metadata_comes_back_unchanged(self, field: str) -> None:
        for text in HOSTILE:
            assert text in strings(parsed(PROVENANCE[field](text)))


class TestExports:
    @pytest.mark.parametrize(
        ("export", "name", "media_type"),
        [
            (Export.JSON, "longhaul-for-operators.json", "application/json"),
            (Export.MARKDOWN, "longhaul-for-operators.md", "text/markdown; charset=utf-8"),
            (Export.HTML, "longhaul-for-operators.html", "text/html; charset=utf-8"),
        ],
    )
    def test_a_file_has_a_name_a_type_and_a_body(self, export: Export, name: str, media_type: str) -> None:
        file = render(make_course(), export=export, profile="full")

        assert (file.name, file.media_type) == (name, media_type)
        assert file.body == render(make_course(), export=export, profile="full").body

    @pytest.mark.parametrize(
        ("title", "slug"),
        [
            ("Щедрый ёж: объём и чай", "shchedryy-yozh-obyom-i-chay"),
            ("Größe & Ære, naïve façade", "grosse-aere-naive-facade"),
            ("日本語", "course"),
            ("...", "course"),
            ("", "course"),
            ("../../etc/passwd", "etc-passwd"),
            ('a"b\r\nSet-Cookie: x', "a-b-set-cookie-x"),
            ("CON", "course-con"),
            ("Ж" * 100, "zh" * 40),
            ("twelve chars " * 10, "twelve-chars-twelve-chars-twelve-chars-twelve-chars-twelve-chars-twelve-chars"),
        ],
    )
    def test_a_slug_is_plain(self, title: str, slug: str) -> None:
        assert slug_of(title) == slug

    @settings(deadline=None, database=None)
    @given(st.text())
    def test_any_title_gives_a_safe_name(self, title: str) -> None:
        slug = slug_of(title)

        assert slug.isascii()
        assert slug.replace("-", "a").isalnum()
        assert 0 < len(slug) <= 80
