"""Recordings: what is to be spoken, what came back, and the port through which a voice is reached."""

import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, Protocol

from pydantic import Field

from domain.generation import MediaRef
from domain.model import Frozen

_PARAGRAPH: Final = re.compile(r"\n\s*\n")
_SENTENCE: Final = re.compile(r"(?<=[.!?\u2026\u3002\uff01\uff1f])[\"'\u00bb\u201d\u2019)]*\s+")
_SPACE: Final = re.compile(r"\s+")
_JOINTS: Final = (_PARAGRAPH, _SENTENCE, _SPACE)


class SpeechModel(Frozen):
    """What a model of a speech provider costs, and how much it takes at once.

    The price is for a thousand characters as billed; a model may bill fewer characters than it speaks.
    """

    usd_per_1000_characters: Annotated[Decimal, Field(ge=0)]
    max_characters: Annotated[int, Field(ge=100)]

    def cost_of(self, characters: Decimal | int) -> Decimal:
        """What so many billed characters cost in US dollars, rounded up to a ten-thousandth of a cent."""
        exact = Decimal(characters) * self.usd_per_1000_characters / 1_000
        return exact.quantize(Decimal("0.000001"), rounding="ROUND_CEILING")


class Voice(Frozen):
    """Who speaks: a voice and a model of one provider, and what the model costs and takes."""

    provider: str
    voice: str
    model: str
    terms: SpeechModel


class SpeechRequest(Frozen):
    """One text for one voice, no longer than the model takes at once."""

    text: str
    voice: str
    model: str
    language: str


class Spoken(Frozen):
    """A recording as it came back. ``characters`` are those billed; a fraction where the model bills less than one."""

    audio: bytes
    media_type: str
    characters: Decimal
    request_id: str | None = None


class MediaNote(Frozen):
    """What is kept of a recording beside its bytes, and what a node of the course graph points to."""

    media: MediaRef
    voice: str
    model: str
    script_sha256: str
    """The checksum of the text that is heard."""
    request_ids: tuple[str, ...] = ()
    """The provider's names for the calls that made it, in the order of the text."""
    calls: int


class SpeechProvider(Protocol):
    """A provider of speech. Implementations never retry; Temporal does."""

    name: str
    at_once: int
    """How many texts the provider speaks at once for us, all workers together."""
    can_look_up: bool
    """Whether ``find`` can tell if an earlier text was spoken."""

    def choose(self, *, language: str, voice: str | None, model: str | None) -> Voice:
        """The voice for a wish; None is the provider's default. Raises PriceUnknown."""
        ...

    async def speak(self, request: SpeechRequest) -> Spoken:
        """Speak the text once. Raises ProviderError with the outcome, SpeechUnavailable where nothing can speak."""
        ...

    async def find(self, request: SpeechRequest, *, since: datetime) -> Spoken | None:
        """The recording of this text made since then, or None where there is none. Raises ProviderError."""
        ...


def pieces_of(text: str, *, longest: int) -> tuple[str, ...]:
    """The text in pieces of at most ``longest`` characters; none where it has no text.

    It is parted between paragraphs where that is possible, then sentences, then words; a longer word is cut.
    """
    return tuple(_packed(text.strip(), longest, _JOINTS))


def _packed(text: str, longest: int, joints: tuple[re.Pattern[str], ...]) -> Iterator[str]:
    if len(text) <= longest:
        if text:
            yield text
        return
    if not joints:
        for start in range(0, len(text), longest):
            yield text[start : start + longest]
        return
    held = ""
    for part, gap in _parts(text, joints[0]):
        if len(held) + len(part) <= longest:
            held += part + gap
            continue
        yield from _packed(held.strip(), longest, joints[1:])
        held = part + gap
    yield from _packed(held.strip(), longest, joints[1:])


def _parts(text: str, joint: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """The parts between joints, each with what stands between it and the next."""
    start = 0
    for found in joint.finditer(text):
        yield text[start : found.start()], found.group()
        start = found.end()
    yield text[start:], ""
