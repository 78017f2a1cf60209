from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.generation import CourseInput, Export, LessonBlock, Price, TokenUsage


def locations(raw: dict[str, Any]) -> set[str]:
    """Where the faults of an input lie, by the outermost field."""
    with pytest.raises(ValidationError) as refused:
        CourseInput.model_validate({"topic": "Tides"} | raw)
    return {str(error["loc"][0]) if error["loc"] else "" for error in refused.value.errors()}


class TestCourseInput:
    def test_a_topic_is_enough(self) -> None:
        wanted = CourseInput(topic="  Tides  ")
        assert wanted.topic == "Tides"
        assert (wanted.language, wanted.level, wanted.provider) == ("en", "beginner", "offline")
        assert wanted.exports == (Export.JSON, Export.MARKDOWN, Export.HTML)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("topic", ""),
            ("topic", "   "),
            ("topic", "two\nlines"),
            ("topic", "nul\x00"),
            ("topic", "lone \ud800"),
            ("topic", "x" * 201),
            ("audience", "\x1b[31m"),
            ("language", "english"),
            ("language", "en_US"),
            ("language", ""),
            ("language", "en\n"),
            ("level", "expert"),
            ("modules", 0),
            ("modules", 101),
            ("lessons_per_module", 51),
            ("lessons_per_module", 2.5),
            ("sources", [{"name": "a.md"}]),
            ("sources", [{"name": "a.md", "text": "x", "artifact_id": "01890000-0000-7000-8000-000000000000"}]),
            ("sources", [{"name": "a.md", "text": " \n\t "}]),
            ("sources", [{"name": "a.md", "text": "nul \x00"}]),
            ("sources", [{"artifact_id": "no uuid"}]),
            ("sources", [{"name": "a.md", "text": "x"}] * 51),
            ("provider", "acme"),
            ("model", "../secret"),
            ("model", ""),
            ("budget_usd", "0"),
            ("budget_usd", "-1"),
            ("budget_usd", "10001"),
            ("budget_usd", "0.0000001"),
            ("budget_usd", "NaN"),
            ("budget_usd", "Infinity"),
            ("exports", []),
            ("exports", ["docx"]),
            ("profile", "tiny"),
            ("surplus", 1),
        ],
    )
    def test_refuses_naming_the_field(self, field: str, value: object) -> None:
        assert locations({field: value}) == {field}

    @pytest.mark.parametrize("language", ["en", "ru", "pt-BR", "zh-Hant", "zh-Hant-TW", "es-419", "sl-rozaj"])
    def test_takes_language_tags(self, language: str) -> None:
        assert CourseInput(topic="x", language=language).language == language

    def test_the_number_of_lessons_has_an_upper_limit(self) -> None:
        assert CourseInput(topic="x", modules=100, lessons_per_module=20).modules == 100
        assert locations({"modules": 100, "lessons_per_module": 21}) == {""}

    def test_a_source_may_be_large_but_not_boundless(self) -> None:
        assert locations({"sources": [{"name": "a", "text": "x" * 4_000_001}]}) == {"sources"}

    def test_goes_through_storage_unchanged(self) -> None:
        wanted = CourseInput(topic="x", budget_usd=Decimal("0.123456"), language="ru")
        assert CourseInput.model_validate(wanted.model_dump(mode="json")) == wanted


class TestLessonBlock:
    def test_is_never_empty(self) -> None:
        with pytest.raises(ValidationError, match="needs paragraphs or bullets"):
            LessonBlock(heading="x", paragraphs=(), bullets=())


class TestPrice:
    PRICE = Price(input_usd=Decimal("0.40"), cached_input_usd=Decimal("0.10"), output_usd=Decimal("1.60"))

    def test_cached_tokens_have_a_price_of_their_own(self) -> None:
        usage = TokenUsage(input_tokens=1_000_000, cached_input_tokens=250_000, output_tokens=1_000_000)
        assert self.PRICE.of(usage) == Decimal("1.925000")

    def test_a_fraction_counts_as_the_next_step(self) -> None:
        assert self.PRICE.of(TokenUsage(input_tokens=1)) == Decimal("0.000001")
        assert self.PRICE.of(TokenUsage()) == 0

    @given(tokens=st.integers(0, 10**9), cached=st.integers(0, 10**9), output=st.integers(0, 10**9))
    def test_is_never_below_the_exact_sum_nor_a_step_above(self, tokens: int, cached: int, output: int) -> None:
        usage = TokenUsage(input_tokens=tokens + cached, cached_input_tokens=cached, output_tokens=output)
        exact = (tokens * Decimal("0.40") + cached * Decimal("0.10") + output * Decimal("1.60")) / 1_000_000
        assert exact <= self.PRICE.of(usage) < exact + Decimal("0.000001")
