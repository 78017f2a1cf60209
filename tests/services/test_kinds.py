from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import Field, ValidationError

from core.database import Database
from core.store import ArtifactStore
from domain.errors import InvalidInput
from domain.generation import ArtifactSource, CourseInput, InlineSource
from domain.generation_plan import most_lessons, outline_tokens
from domain.model import Frozen
from services.generation import course_kind
from services.kinds import JobKind, KindRegistry, field_faults, parse_input
from tests.support.life import kinds_on


class Inner(Frozen):
    """A part."""

    count: Annotated[int, Field(ge=0)]


class Other(Frozen):
    """Another part."""

    name: str


class Outer(Frozen):
    """A whole, with names that a JSON pointer has to escape."""

    parts: tuple[Inner | Other, ...] = ()
    table: dict[str, Inner] = Field(default_factory=dict)


def kind(model: type[Frozen]) -> JobKind:
    """A kind with this input."""
    return JobKind(name="k", input_model=model, workflow="W", task_queue="q", summary=str)


class TestRegistry:
    def test_knows_its_kinds(self) -> None:
        registry = KindRegistry(kinds_on("q"))
        assert registry.get("diagnostics.noop").workflow == "Noop"
        assert registry.names() == ["diagnostics.noop", "test.careless", "test.crash", "test.hold"]
        assert registry.task_queues() == ["q"]

    def test_names_those_it_knows_for_one_it_does_not(self) -> None:
        with pytest.raises(InvalidInput) as refused:
            KindRegistry(kinds_on("q")).get("publishing.order")
        (fault,) = refused.value.faults
        assert fault.pointer == "/kind"
        assert fault.message == "is not one of: diagnostics.noop, test.careless, test.crash, test.hold"


class TestParse:
    def test_gives_the_model(self) -> None:
        assert parse_input(kind(Inner), {"count": 1}) == Inner(count=1)

    @pytest.mark.parametrize(
        ("raw", "pointers"),
        [
            ({"count": -1}, ["/input/count"]),
            ({}, ["/input/count"]),
            ({"count": 1, "more": 2}, ["/input/more"]),
            ({"count": "x", "a/b~c": 1}, ["/input/count", "/input/a~1b~0c"]),
            ([], ["/input"]),
            (None, ["/input"]),
        ],
    )
    def test_names_each_field(self, raw: object, pointers: list[str]) -> None:
        with pytest.raises(InvalidInput) as refused:
            parse_input(kind(Inner), raw)
        assert [fault.pointer for fault in refused.value.faults] == pointers

    def test_never_shows_the_value(self) -> None:
        with pytest.raises(InvalidInput) as refused:
            parse_input(kind(Inner), {"count": "hunter2"})
        assert "hunter2" not in str([refused.value, refused.value.faults])
        assert refused.value.__cause__ is None

    def test_leaves_the_branches_of_a_union_out(self) -> None:
        with pytest.raises(InvalidInput) as refused:
            parse_input(kind(Outer), {"parts": [{"count": -1}], "table": {"k": {}}})
        assert {fault.pointer for fault in refused.value.faults} == {
            "/input/parts/0/count",
            "/input/parts/0/name",
            "/input/table/k/count",
        }

    def test_keeps_the_clients_own_capitals(self) -> None:
        with pytest.raises(InvalidInput) as refused:
            parse_input(kind(Outer), {"table": {"Key": {}}, "Unknown": 1})
        assert {fault.pointer for fault in refused.value.faults} == {"/input/table/Key/count", "/input/Unknown"}

    def test_says_our_own_messages_plainly(self) -> None:
        with pytest.raises(InvalidInput) as refused:
            parse_input(kind(CourseInput), {"topic": "x", "sources": [{"name": "a.md", "text": " "}]})
        faults = {(fault.pointer, fault.message) for fault in refused.value.faults}
        assert ("/input/sources/0/text", "the source has no text") in faults

    def test_gives_each_member_of_a_union(self) -> None:
        parsed = parse_input(
            kind(CourseInput),
            {
                "topic": "x",
                "sources": [
                    {"name": "a.md", "text": "b"},
                    {"artifact_id": "01890000-0000-7000-8000-000000000000"},
                ],
            },
        )
        assert isinstance(parsed, CourseInput)
        assert [type(source) for source in parsed.sources] == [InlineSource, ArtifactSource]


class TestPointer:
    def test_can_be_put_below_another(self) -> None:
        data = {"count": -1}
        with pytest.raises(ValidationError) as fault:
            Inner.model_validate(data)
        assert field_faults(fault.value, data, below="/jobs/3")[0].pointer == "/jobs/3/count"


class TestOutlinesThatFit:
    """Into one answer of the model: what does not would fail after it was acknowledged."""

    @pytest.mark.parametrize("tokens", [1, 1_000, 1_159, 1_160, 4_096, 32_768, 100_000])
    def test_as_many_lessons_as_there_is_room_for(self, tokens: int) -> None:
        most = most_lessons(tokens)
        assert most == 0 or outline_tokens(most) <= tokens
        assert outline_tokens(most + 1) > tokens

    @pytest.mark.parametrize(
        ("changes", "fits"),
        [
            ({"lessons_per_module": 33}, True),
            ({"lessons_per_module": 34}, False),
            ({"lessons_per_module": 34, "provider": "offline"}, True),
            ({"lessons_per_module": 50, "model": "large"}, True),
            ({"lessons_per_module": 4, "model": "small"}, False),
        ],
    )
    async def test_by_the_model_that_is_asked(
        self, database: Database, store: ArtifactStore, tenant_id: UUID, *, changes: dict[str, Any], fits: bool
    ) -> None:
        asked = course_kind(
            database, store, default_model="usual", most_output_tokens={"large": 65_536, "small": 4_096}
        )
        sources = (InlineSource(name="a.md", text="The moon pulls the sea."),)
        wish = {"topic": "t", "provider": "openai", "modules": 6, "sources": sources, **changes}
        wanted = CourseInput.model_validate(wish)
        assert asked.check is not None
        if fits:
            await asked.check(tenant_id, wanted)
            return
        with pytest.raises(InvalidInput) as refused:
            await asked.check(tenant_id, wanted)
        assert [fault.pointer for fault in refused.value.faults] == ["/input/modules"]
