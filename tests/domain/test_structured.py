"""Structured answers: the wire schema is in the strict subset, and an answer is judged by the full model."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from domain.generation import CourseOutline, LessonBlock, LessonContent, LessonOutline
from domain.model import Frozen
from domain.structured import AnswerFault, strict_schema, validate_answer

CONSTRAINTS = {
    "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems", "format", "default", "title",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "uniqueItems",
}  # fmt: skip


class Inner(Frozen):
    title: str = "x"
    amount: Decimal = Decimal(1)
    due: datetime | None = None


class Outer(Frozen):
    """An outer thing."""

    title: str = Field(max_length=10, title="Renamed")
    default: int = Field(3, ge=1, le=5)
    kind: Literal["a", "b"] = "a"
    inner: Inner = Field(default=Inner(), description="with a sibling")
    many: tuple[Inner, ...] = ()
    either: Inner | int | None = None


class Node(Frozen):
    name: str
    children: "tuple[Node, ...]" = ()


class Small(Frozen):
    n: int
    words: tuple[str, ...] = ()


class Cat(Frozen):
    kind: Literal["cat"]
    lives: int


class Dog(Frozen):
    kind: Literal["dog"]
    tricks: tuple[str, ...]


class Owner(Frozen):
    pet: Cat | Dog = Field(discriminator="kind")


def schemas(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema and all schemas inside, as opposed to mappings from names to schemas."""
    inside: list[Any] = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    inside += schema.get("anyOf", [])
    inside += [schema["items"]] if "items" in schema else []
    return [schema, *(found for part in inside for found in schemas(part))]


class TestStrictSchema:
    @pytest.mark.parametrize("model", [CourseOutline, LessonContent, Outer, Node, Small, Owner])
    def test_every_object_is_closed_and_requires_everything(self, model: type[BaseModel]) -> None:
        for schema in schemas(strict_schema(model)):
            if schema.get("type") == "object":
                assert schema["additionalProperties"] is False
                assert schema["required"] == list(schema["properties"])

    @pytest.mark.parametrize("model", [CourseOutline, LessonContent, Outer, Node, Small, Owner])
    def test_no_constraint_is_left(self, model: type[BaseModel]) -> None:
        for schema in schemas(strict_schema(model)):
            assert not schema.keys() & CONSTRAINTS
            assert "$ref" not in schema or len(schema) == 1

    def test_a_property_may_be_called_like_a_keyword(self) -> None:
        assert set(strict_schema(Outer)["properties"]) == {"title", "default", "kind", "inner", "many", "either"}
        assert strict_schema(LessonOutline)["properties"]["title"] == {"type": "string"}

    def test_a_model_that_contains_itself_has_an_object_on_top(self) -> None:
        schema = strict_schema(Node)
        assert schema["type"] == "object"
        assert schema["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
        assert schema["$defs"]["Node"]["type"] == "object"

    def test_a_discriminated_union_becomes_a_plain_one(self) -> None:
        assert strict_schema(Owner)["properties"]["pet"] == {
            "anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]
        }

    def test_the_result_is_the_callers_own(self) -> None:
        strict_schema(Small)["properties"].clear()
        assert strict_schema(Small)["properties"]

    @pytest.mark.parametrize("annotation", [dict[str, int], dict[str, Any], Any, list[Any], list, tuple[int, str]])
    def test_what_strict_mode_cannot_say_is_refused_with_its_place(self, annotation: Any) -> None:
        model = type("Odd", (BaseModel,), {"__annotations__": {"field": annotation}})
        with pytest.raises(TypeError, match="/properties/field"):
            strict_schema(model)

    def test_an_open_model_is_refused(self) -> None:
        class Open(BaseModel, extra="allow"):
            n: int

        with pytest.raises(TypeError, match="free-form"):
            strict_schema(Open)


def fault(model: type[BaseModel], text: str) -> dict[str, str]:
    result = validate_answer(model, text)
    assert isinstance(result, AnswerFault)
    assert result.errors
    return dict(result.errors)


class TestValidateAnswer:
    def test_a_good_document(self) -> None:
        assert validate_answer(Small, '{"n": 1, "words": ["a"]}') == Small(n=1, words=("a",))

    @pytest.mark.parametrize(
        "text",
        [
            '```json\n{"n": 1}\n```',
            '  ```json \r\n{"n": 1}\r\n```\n',
            '```\n{"n":\n1}\n```',
            '```JSON\n{"n": 1}```',
            '\n {"n": 1} \n',
        ],
    )
    def test_a_fence_and_white_space_are_forgiven(self, text: str) -> None:
        assert validate_answer(Small, text) == Small(n=1)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "   ",
            "nothing",
            '{"n": 1',
            '{"n": 1} and more',
            '{"n": 1}{"n": 1}',
            'Here you are:\n```json\n{"n": 1}\n```',
            '```json\n{"n": 1}\n```\nHope it helps!',
            '```python\n{"n": 1}\n```',
            "```json",
            "``````",
            '{"n": NaN}',
            '{"n": Infinity}',
            '{"n": -Infinity}',
            '{"n": 1e999}',
            '{"n": 1, "n": 2}',
            '{"n": 1, "words": [], "\\u006e": 2}',
            '\ufeff{"n": 1}',
            '{"n": 01}',
            "{'n': 1}",
            '{"n": 1,}',
            '{"n": ' + "9" * 5000 + "}",
            "[" * 100_000,
            '{"a":' * 100_000,
            "[" * 500 + "]" * 500,
        ],
    )
    def test_what_is_no_single_json_document_is_refused_as_a_whole(self, text: str) -> None:
        assert set(fault(Small, text)) == {""}

    @pytest.mark.parametrize("n", ['"1"', "1.0", "true", "null", "1.5", "[1]"])
    def test_types_are_not_coerced(self, n: str) -> None:
        assert set(fault(Small, f'{{"n": {n}}}')) == {"/n"}

    def test_paths_are_json_pointers(self) -> None:
        text = '{"title": 3, "blocks": [], "a/b~c": 1, "terms": [{"term": ""}], "summary": "s", "key_points": ["k"]}'
        assert {"/title", "/blocks", "/a~1b~0c", "/terms/0/term", "/terms/0/definition"} == set(
            fault(LessonContent, text)
        )

    def test_a_rule_between_fields_names_the_object(self) -> None:
        block = {"heading": "h", "paragraphs": [], "bullets": []}
        whole = {"title": "t", "summary": "s", "blocks": [block], "key_points": ["k"], "terms": []}
        assert set(fault(LessonBlock, json.dumps(block))) == {""}
        assert "/blocks/0" in fault(LessonContent, json.dumps(whole))

    def test_tags_of_a_union_are_no_part_of_the_path(self) -> None:
        assert set(fault(Owner, '{"pet": {"kind": "cat"}}')) == {"/pet/lives"}
        assert set(fault(Owner, '{"pet": {"kind": "dog", "tricks": [1]}}')) == {"/pet/tricks/0"}

    @pytest.mark.parametrize("bad", ["\\u0000", "\\ud800", "\\udc00x", "\ud800"])
    def test_text_that_cannot_be_stored_is_refused_where_it_stands(self, bad: str) -> None:
        """Also in plain strings, whose type would let NUL pass."""
        assert set(fault(Small, f'{{"n": 1, "words": ["ok", "{bad}"]}}')) == {"/words/1"}

    def test_a_pair_of_surrogates_is_a_character(self) -> None:
        assert validate_answer(Small, '{"n": 1, "words": ["\\ud83d\\ude00"]}') == Small(n=1, words=("😀",))

    def test_messages_do_not_repeat_the_answer(self) -> None:
        secret = "the quick brown fox"
        for text in (f'{{"n": "{secret}"}}', secret, f'{{"n": 1, "words": "{secret}"}}'):
            assert secret not in str(validate_answer(Small, text))

    def test_the_number_of_faults_is_bounded(self) -> None:
        result = validate_answer(Small, json.dumps({"n": 1, "words": list(range(1000))}))
        assert isinstance(result, AnswerFault)
        assert len(result.errors) == 50

    @given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
    def test_no_text_raises(self, text: str) -> None:
        assert isinstance(validate_answer(LessonContent, text), AnswerFault)

    @given(
        st.builds(
            Small,
            n=st.integers(-(10**9), 10**9),
            words=st.lists(st.text(st.characters(exclude_characters="\x00", codec="utf-8"))).map(tuple),
        )
    )
    def test_what_a_model_writes_is_read_back(self, small: Small) -> None:
        assert validate_answer(Small, small.model_dump_json()) == small
