"""What may not leave as it is: personal data and harmful content, where it was found, and what a tenant wants done.

A finding says what kind of thing is where. It never holds the thing itself, so it may be kept, shown and logged.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, Protocol

from pydantic import Field

from domain.model import Frozen
from domain.structured import escaped


class FindingKind(StrEnum):
    """What was found. The last two are judgements of a provider's moderation, the others are personal data."""

    EMAIL = "email"
    PHONE = "phone"
    CARD = "card"
    IBAN = "iban"
    NATIONAL_ID = "national_id"
    SEVERE = "severe"
    HARMFUL = "harmful"


PERSONAL_DATA: Final = frozenset(FindingKind) - {FindingKind.SEVERE, FindingKind.HARMFUL}


class GuardAction(StrEnum):
    """What becomes of content in which something was found, the strictest first."""

    BLOCK = "block"  # nothing of it is kept or shown
    MASK = "mask"  # the place is replaced by a mark
    FLAG = "flag"  # the text stays, the finding is told
    ALLOW = "allow"  # nothing is done or told


HarmAction = Literal[GuardAction.BLOCK, GuardAction.FLAG, GuardAction.ALLOW]
"""A judgement is about a whole passage: there is no place in it to put a mark on."""


class ContentPolicy(Frozen):
    """What a tenant wants done, kind by kind. The defaults are the policy of a tenant that has set none.

    ``sources``: whether what would be masked or blocked in an answer is also masked in what is sent to a provider
    outside this installation, or sent as it is.
    """

    email: GuardAction = GuardAction.MASK
    phone: GuardAction = GuardAction.MASK
    card: GuardAction = GuardAction.MASK
    iban: GuardAction = GuardAction.MASK
    national_id: GuardAction = GuardAction.MASK
    severe: HarmAction = GuardAction.BLOCK
    harmful: HarmAction = GuardAction.FLAG
    sources: Literal["mask", "send"] = "mask"

    def action_for(self, kind: FindingKind) -> GuardAction:
        """What is to be done where a thing of this kind is found."""
        return GuardAction(getattr(self, kind.value))


@dataclass(frozen=True, slots=True)
class Spot:
    """A thing in a text: from ``start`` to before ``end``, in code points. ``confidence`` is from 0 to 1."""

    kind: FindingKind
    start: int
    end: int
    confidence: float
    detector: str


class Finding(Frozen):
    """A thing in a document. ``pointer`` (RFC 6901) names the string that it is in.

    ``start`` and ``end`` count code points of that string as it is kept: of masked content they enclose the mark, of
    blocked content, which is not kept, they tell where the thing was.
    """

    kind: FindingKind
    pointer: str
    start: int
    end: int
    confidence: float
    detector: str
    action: GuardAction


class Verdict(Frozen):
    """What came of looking at a piece of content. Findings that the policy allows are not among ``findings``."""

    findings: tuple[Finding, ...] = ()

    @property
    def blocked(self) -> bool:
        """Whether nothing of the content may be kept or shown."""
        return any(finding.action is GuardAction.BLOCK for finding in self.findings)

    @property
    def masked(self) -> frozenset[FindingKind]:
        """The kinds of which something was replaced by a mark."""
        return frozenset(finding.kind for finding in self.findings if finding.action is GuardAction.MASK)


# --- the ports --------------------------------------------------------------------------------------


class TextDetector(Protocol):
    """Finds personal data in a text, in time that grows with its length and not faster."""

    def find(self, text: str, *, language: str) -> Sequence[Spot]:
        """Every thing found, in order and without overlaps; ``language`` (BCP 47) tells whose phones to expect."""
        ...


class Judgement(Frozen):
    """What a provider's moderation says about one text: a score from 0 to 1 for each category that it objects to."""

    categories: Mapping[str, float] = Field(default_factory=dict)


class Moderator(Protocol):
    """A provider's moderation. Judging a text again has no effect, so a call that failed may simply be repeated."""

    provider: str
    """The name of the language models whose answers it judges."""
    model: str

    async def moderate(self, *, texts: Sequence[str]) -> tuple[Judgement, ...]:
        """One judgement for each text, in order. Raises ProviderError."""
        ...


SEVERE_CATEGORIES: Final = frozenset({
    "sexual/minors", "hate/threatening", "harassment/threatening", "self-harm/instructions", "illicit/violent",
})  # fmt: skip
"""What no lesson needs. A war, a crime or an illness may be the subject of one, and is harmful at most."""


def judged_spots(judgement: Judgement, *, length: int, moderator: str) -> Iterator[Spot]:
    """The judgement of a text of ``length`` code points as spots that cover it, at most one of each kind."""
    ranked = sorted(judgement.categories.items(), key=lambda item: (-item[1], item[0]))
    told: set[FindingKind] = set()
    for category, score in ranked:
        kind = FindingKind.SEVERE if category in SEVERE_CATEGORIES else FindingKind.HARMFUL
        if kind not in told:
            told.add(kind)
            yield Spot(kind, 0, length, score, f"{moderator}.{category}")


# --- reading and changing documents -----------------------------------------------------------------

_SHORTEST_NUMBER: Final = 10**8
"""Numbers below it are too short for anything personal."""


_MOST_LEVELS: Final = 100


def is_shallow(document: Any) -> bool:
    """Whether a document is nested no deeper than the functions below can follow, whoever calls them."""
    level = [document]
    for _ in range(_MOST_LEVELS):
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return True
    return False


def texts_of(document: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON document with its pointer; long numbers as strings. Names of members are no content."""
    if isinstance(document, str):
        yield at, document
    elif isinstance(document, int):
        if abs(document) >= _SHORTEST_NUMBER:
            yield at, str(document)
    elif isinstance(document, list):
        for index, item in enumerate(document):
            yield from texts_of(item, f"{at}/{index}")
    elif isinstance(document, dict):
        for name, item in document.items():
            yield from texts_of(item, f"{at}/{escaped(name)}")


def names_of(document: Any) -> Iterator[str]:
    """Every name of a member, however deep."""
    if isinstance(document, list):
        for item in document:
            yield from names_of(item)
    elif isinstance(document, dict):
        for name, item in document.items():
            yield name
            yield from names_of(item)


def with_texts(document: Any, texts: Mapping[str, str], at: str = "") -> Any:
    """The document with other strings at these pointers."""
    if at in texts and isinstance(document, str | int):
        return texts[at]
    if isinstance(document, list):
        return [with_texts(item, texts, f"{at}/{index}") for index, item in enumerate(document)]
    if isinstance(document, dict):
        return {name: with_texts(item, texts, f"{at}/{escaped(name)}") for name, item in document.items()}
    return document


_ESCAPE: Final = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)


def readable(raw: str) -> str:
    """JSON text that cannot be parsed, as a reader would see it; every code point stays at its place.

    What an escape leaves free is filled with NUL, which detectors skip.
    """
    return _ESCAPE.sub(lambda found: _unescaped(found[0]).ljust(len(found[0]), "\0"), raw) if "\\" in raw else raw


def _unescaped(escape: str) -> str:
    if len(escape) > len("\\n"):
        return chr(int(escape[2:], 16))  # noqa: FURB166 - the suggestion reads "0u"
    return " " if escape[1] in "nrtbf" else escape[1]


# --- marks ------------------------------------------------------------------------------------------

_MARKS: Final[Mapping[str, Mapping[FindingKind, str]]] = {
    "en": {
        FindingKind.EMAIL: "e-mail",
        FindingKind.PHONE: "phone",
        FindingKind.CARD: "card number",
        FindingKind.IBAN: "IBAN",
        FindingKind.NATIONAL_ID: "ID",
    },
    "ru": {
        FindingKind.EMAIL: "эл. почта",
        FindingKind.PHONE: "телефон",
        FindingKind.CARD: "номер карты",
        FindingKind.IBAN: "IBAN",
        FindingKind.NATIONAL_ID: "документ",
    },
}
SHORT_MARK: Final = "[…]"
"""For what is shorter than its mark: masked text is never longer than it was, so that it fits wherever it did."""


class Marks:
    """The marks of one document. The same thing gets the same mark; another of its kind a number from 2 on."""

    def __init__(self, language: str) -> None:
        self._words = _MARKS.get(language.partition("-")[0].lower(), _MARKS["en"])
        self._seen: dict[FindingKind, dict[str, int]] = {}

    def mark(self, kind: FindingKind, thing: str) -> str:
        """What to write in place of ``thing``."""
        known = self._seen.setdefault(kind, {})
        number = known.setdefault("".join(filter(str.isalnum, thing)).casefold(), len(known) + 1)
        mark = f"[{self._words[kind]}]" if number == 1 else f"[{self._words[kind]} {number}]"
        return mark if len(mark) <= len(thing) else SHORT_MARK


@dataclass(frozen=True, slots=True)
class Guarded:
    """Texts by pointer as they may be kept, those that changed alone, and what was found in all of them."""

    changed: Mapping[str, str]
    findings: tuple[Finding, ...]


def guard_texts(found: Iterable[tuple[str, str, Sequence[Spot]]], policy: ContentPolicy, *, language: str) -> Guarded:
    """Do what the policy says about spots in texts, given as pointer, text and spots in order."""
    marks = Marks(language)
    changed: dict[str, str] = {}
    findings: list[Finding] = []
    for pointer, text, spots in found:
        pieces: list[str] = []
        length, done = 0, 0
        for spot in spots:
            action = policy.action_for(spot.kind)
            kept = marks.mark(spot.kind, text[spot.start : spot.end]) if action is GuardAction.MASK else None
            before = text[done : spot.start]
            start = length + len(before)
            done = spot.start if kept is None else spot.end
            pieces += [before, kept or ""]
            length = start + len(kept or "")
            if action is not GuardAction.ALLOW:
                end = start + (spot.end - spot.start if kept is None else len(kept))
                findings.append(
                    Finding(
                        kind=spot.kind, pointer=pointer, start=start, end=end, confidence=spot.confidence,
                        detector=spot.detector, action=action,
                    )
                )  # fmt: skip
        whole = "".join((*pieces, text[done:]))
        if whole != text:
            changed[pointer] = whole
    return Guarded(changed, tuple(findings))


def count_findings(findings: Iterable[Finding]) -> dict[str, dict[str, int]]:
    """How many of each kind, by what was done about them: ``{"email": {"mask": 2}}``."""
    counted = Counter((finding.kind.value, finding.action.value) for finding in findings)
    return sum_counts({kind: {action: count}} for (kind, action), count in sorted(counted.items()))


def sum_counts(counts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Several such counts as one."""
    total: dict[str, dict[str, int]] = {}
    for one in counts:
        for kind, actions in one.items():
            for action, count in actions.items():
                of_kind = total.setdefault(kind, {})
                of_kind[action] = of_kind.get(action, 0) + count
    return total
