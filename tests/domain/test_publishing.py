"""Content in UTF-16, local times across clock changes, states, and the course of an effect without any world."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from domain.errors import Outcome
from domain.publishing.channels import Sight
from domain.publishing.content import (
    Button,
    Entity,
    MediaItem,
    PostContent,
    content_faults,
    parse_html,
    render,
    utf16_units,
)
from domain.publishing.dialog import DialogState, DialogStep, Offer, advance
from domain.publishing.effects import Attempt, Attempted, End, Policy, carry_effect
from domain.publishing.orders import OrderState, may_become, removal_fault
from domain.publishing.times import AmbiguousTime, ImpossibleTime, UnknownZone, resolve_local

PHOTO = MediaItem(url="https://example.org/a.jpg")


def pointers(content: PostContent) -> list[str]:
    return [fault.pointer for fault in content_faults(content)]


class TestContent:
    def test_counts_as_telegram_does(self) -> None:
        assert utf16_units("a\N{GRINNING FACE}") == 3
        assert pointers(PostContent(text="\N{GRINNING FACE}" * 2_048)) == []
        assert pointers(PostContent(text="\N{GRINNING FACE}" * 2_048 + "x")) == ["/content/text"]

    def test_markup_does_not_count(self) -> None:
        assert pointers(PostContent(text=f"<b>{'x' * 4_096}</b>", format="html")) == []

    def test_offsets_are_utf16(self) -> None:
        text, [bold] = parse_html("\N{GRINNING FACE}<b>hi</b>")
        assert (text, bold.offset, bold.length) == ("\N{GRINNING FACE}hi", 2, 2)

    @pytest.mark.parametrize(
        "text",
        [
            "<b>open",
            "</b>",
            "<b><i>x</b></i>",
            "<script>x</script>",
            "<a>x</a>",
            "<a href='javascript:1'>x</a>",
            "<a href='http://a b'>x</a>",
            "<a href='https://'>x</a>",
            "<a href='https://['>x</a>",
            "<a href='https://a.b:99999'>x</a>",
            f"<a href='https://a.b/{'x' * 2_000}'>x</a>",
            "x <b",
        ],
    )
    def test_broken_html(self, text: str) -> None:
        assert pointers(PostContent(text=text, format="html")) == ["/content/text"]

    @pytest.mark.parametrize(
        ("content", "pointer"),
        [
            (PostContent(), "/content/text"),
            (PostContent(text="x" * 1_025, media=(PHOTO,)), "/content/text"),
            (PostContent(text="x", media=(PHOTO,) * 11), "/content/media"),
            (PostContent(media=(PHOTO, MediaItem(type="document", url="https://a.b/c"))), "/content/media"),
            (PostContent(media=(PHOTO,) * 2, buttons=(Button(text="x", url="https://a.b"),)), "/content/buttons"),
            (PostContent(text="ab", entities=(Entity(type="bold", offset=1, length=2),)), "/content/entities/0"),
            (PostContent(text="\N{GRINNING FACE}", entities=(Entity(type="bold", offset=1, length=1),)),
             "/content/entities/0"),
            (PostContent(text="abcd", entities=(Entity(type="bold", offset=0, length=2),
                                                Entity(type="italic", offset=1, length=2))), "/content/entities/1"),
            (PostContent(text="ab", entities=(Entity(type="text_link", offset=0, length=1),)),
             "/content/entities/0/url"),
        ],
    )  # fmt: skip
    def test_is_refused_by_name(self, content: PostContent, pointer: str) -> None:
        assert pointers(content) == [pointer]

    @pytest.mark.parametrize("url", ["https://[", "https://?", "https://a.b:99999/", "https://[::1/"])
    def test_links_are_addresses(self, url: str) -> None:
        link = Entity(type="text_link", offset=0, length=1, url=url)
        content = PostContent(
            text="x", entities=(link,), media=(MediaItem(url=url),), buttons=(Button(text="x", url=url),)
        )
        assert sorted(pointers(content)) == [
            "/content/buttons/0/url",
            "/content/entities/0/url",
            "/content/media/0/url",
        ]

    def test_entities_stay_on_their_words_when_space_is_trimmed(self) -> None:
        def bold(offset: int, length: int) -> Entity:
            return Entity(type="bold", offset=offset, length=length)

        content = PostContent(
            text=" \n\N{GRINNING FACE}hi  ", entities=(bold(0, 2), bold(1, 3), bold(4, 3), bold(6, 2))
        )
        assert render(content).text == "\N{GRINNING FACE}hi"
        assert render(content).entities == (bold(0, 2), bold(2, 2))
        html = render(PostContent(text="  <b>hi</b> ", format="html"))
        assert (html.text, html.entities) == ("hi", (bold(0, 2),))

    def test_same_content_has_the_same_identity(self) -> None:
        one, two = (render(PostContent(text=text, format="html")) for text in ("<b>a</b>", "<strong>a</strong>"))
        assert one.sha256 == two.sha256


class TestTimes:
    def test_spring_gap(self) -> None:
        with pytest.raises(ImpossibleTime):
            resolve_local(datetime(2026, 3, 29, 2, 30), "Europe/Berlin")  # noqa: DTZ001 - local

    def test_autumn_hour(self) -> None:
        local = datetime(2026, 10, 25, 2, 30)  # noqa: DTZ001 - local
        with pytest.raises(AmbiguousTime):
            resolve_local(local, "Europe/Berlin")
        first, second = (resolve_local(local, "Europe/Berlin", fold=fold) for fold in (0, 1))
        assert second - first == timedelta(hours=1)

    def test_plain(self) -> None:
        assert resolve_local(datetime(2026, 7, 1, 12), "Europe/Berlin") == datetime(2026, 7, 1, 10, tzinfo=UTC)  # noqa: DTZ001 - local

    @pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc/passwd", "", "Europe"])
    def test_unknown_zone(self, zone: str) -> None:
        with pytest.raises(UnknownZone):
            resolve_local(datetime(2026, 7, 1), zone)  # noqa: DTZ001 - local

    def test_48_hours(self) -> None:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        long = start + timedelta(hours=72)
        one, album = PostContent(text="x"), PostContent(media=(PHOTO,) * 2)
        assert removal_fault(start, long, finish="remove", content=one, limited=True)
        assert removal_fault(start, long, finish="stub", content=one, limited=True) is None
        assert removal_fault(start, long, finish="remove", content=one, limited=False) is None
        assert removal_fault(start, long, finish="stub", content=album, limited=True)
        assert removal_fault(start, long, finish="stub", content=album, limited=False) is None
        assert removal_fault(start, long, finish="keep", content=album, limited=True) is None


def test_what_is_over_stays_over() -> None:
    for over in (OrderState.REMOVED, OrderState.MISSED, OrderState.CANCELED, OrderState.REJECTED):
        assert not [state for state in OrderState if state is not over and may_become(over, state)]


@pytest.mark.parametrize("state", [OrderState.ARMED, OrderState.SENDING, OrderState.NEEDS_PERSON])
def test_what_may_be_sent_may_be_refused(state: OrderState) -> None:
    """Also before the attempt stands in the ledger: where the credential does not open there is none."""
    assert may_become(state, OrderState.REJECTED)


class Script:
    """A world that answers as it is told."""

    def __init__(self, sends: Sequence[Attempted | None], sights: Sequence[Sight] = ()) -> None:
        self._sends, self._sights = list(sends), list(sights)
        self.did: list[str] = []

    async def send(self, number: int) -> Attempt | None:
        self.did.append(f"send{number}")
        what = self._sends.pop(0)
        return None if what is None else Attempt(what=what)

    async def settle(self, number: int) -> Outcome:
        self.did.append(f"settle{number}")
        return Outcome.UNKNOWN

    async def probe(self, number: int) -> Sight:
        self.did.append("look")
        return self._sights.pop(0)

    async def ask_person(self) -> None:
        self.did.append("ask")

    async def pause(self, length: timedelta) -> None: ...

    def now(self) -> datetime:
        return datetime.now(UTC)


POLICY = Policy(probe_pauses=(timedelta(0),) * 3)
DONE, UNKNOWN, NOT_SENT = Attempted.DONE, Attempted.UNKNOWN, Attempted.NOT_SENT
ABSENT, FOUND, BLIND, PARTLY = Sight.ABSENT, Sight.FOUND, Sight.BLIND, Sight.PARTLY


class TestCourse:
    @pytest.mark.parametrize(
        ("sends", "sights", "end", "did"),
        [
            ([DONE], [], End.DONE, "send1"),
            ([NOT_SENT, DONE], [], End.DONE, "send1 send2"),
            ([UNKNOWN], [FOUND], End.DONE, "send1 look"),
            ([UNKNOWN, DONE], [ABSENT] * 3, End.DONE, "send1 look look look send2"),
            ([UNKNOWN], [ABSENT, BLIND, ABSENT], End.NEEDS_PERSON, "send1 look look look ask"),
            ([UNKNOWN], [PARTLY], End.NEEDS_PERSON, "send1 look ask"),
            ([UNKNOWN, UNKNOWN], [ABSENT] * 6, End.NEEDS_PERSON, "send1 look look look send2 look look look ask"),
            ([None], [FOUND], End.DONE, "send1 settle1 look"),
            ([Attempted.LATE], [], End.LATE, "send1"),
            ([Attempted.HELD_BACK, Attempted.REJECTED], [], End.REJECTED, "send1 send2"),
        ],
    )
    async def test_never_sends_without_proof(
        self, sends: list[Attempted | None], sights: list[Sight], end: End, did: str
    ) -> None:
        world = Script(sends, sights)
        assert (await carry_effect(world, POLICY)).end is end
        assert " ".join(world.did) == did


class TestDialog:
    def test_asks_until_it_understands(self) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        offer = Offer(slot_id=uuid4(), starts_at=now, ends_at=now + timedelta(hours=1))
        state = advance(DialogState(), "/book", update_id=1, offers=[offer]).state
        assert state.step is DialogStep.SLOT
        for nonsense in ("x", "0", "2", "\N{SUPERSCRIPT TWO}"):
            assert advance(state, nonsense, update_id=2, offers=[]).state == state
        state = advance(state, "1", update_id=3, offers=[]).state
        state = advance(state, "text", update_id=4, offers=[]).state
        assert (state.step, state.text_update) == (DialogStep.CONFIRM, 4)
        assert not advance(state, "maybe", update_id=5, offers=[]).book
        assert advance(state, "Yes", update_id=6, offers=[]).book
        assert advance(state, "/cancel", update_id=6, offers=[]).state == DialogState()
        assert advance(DialogState(), "hi", update_id=7, offers=[]).state == DialogState()
