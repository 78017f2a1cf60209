"""The collections: what a record of each looks like. A new one is a model here, a table, a migration, and one line.

Records are judged by msgspec, which reads and checks a million of them in half a second; everything else in the
domain is pydantic. What is accepted here is what PostgreSQL takes: the merge is not meant to find anything wrong.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from itertools import chain
from math import isinf
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Meta, inspect

from domain.saving import Refusal

MOST_LEVELS: Final = 100
"""How deep a record may be nested, its own braces included."""

_INT4: Final = 2**31 - 1
_INT8: Final = 2**63 - 1

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Number = Annotated[int, Meta(ge=-_INT8, le=_INT8)]
Moment = Annotated[datetime, Meta(tz=True)]


class Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One message of a dialog. ``id`` is its idempotency: the first one saved stays."""

    id: UUID
    dialog_id: Name | Number
    user_id: Name | Number
    role: Name
    content: str
    created_at: Moment
    model: Name | None = None
    tokens: Annotated[int, Meta(ge=0, le=_INT4)] | None = None
    status: Name | None = None
    processing_ms: Annotated[int, Meta(ge=0, le=_INT4)] | None = None
    metadata: dict[str, Any] | None = None


class User(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The state of a user. Of two with the same ``id`` the one with the higher ``version`` stays."""

    id: Name | Number
    version: Annotated[int, Meta(ge=0, le=_INT8)]
    premium: bool | None = None
    blocked: bool | None = None
    last_active_at: Moment | None = None
    attributes: dict[str, Any] | None = None


class Keep(StrEnum):
    """Which of several records with one ``id`` stays."""

    FIRST = "first"
    NEWEST = "newest"  # the highest ``version``


@dataclass(frozen=True)
class Collection:
    """A kind of record. Its table has the same name, and a column for each member of the model."""

    name: str
    model: type[msgspec.Struct]
    keep: Keep

    @cached_property
    def decoder(self) -> "msgspec.json.Decoder[Any]":
        """Reads and checks one record, or many."""
        return msgspec.json.Decoder(self.model, float_hook=_storable_float)

    @cached_property
    def moments(self) -> Sequence[str]:
        """The members that hold a moment."""
        return _members_of(self.model, inspect.DateTimeType)


_MOST_PLACES: Final = 16_383  # behind the point, as PostgreSQL writes a number out
_LONGEST_EXPONENT: Final = 100  # letters, for who begins it with many zeros
_LARGEST_EXPONENT: Final = 1_000


def _storable_float(text: str) -> float:
    """A number as it is written in a document. Raises ValueError where PostgreSQL would not take it."""
    number = float(text)
    if not _is_storable(text):
        raise ValueError("Number has too many digits or too large an exponent")
    if isinf(number):
        raise ValueError("Number out of range")
    return number


def _is_storable(number: str) -> bool:
    mantissa, _, exponent = number.lower().partition("e")
    if len(exponent) > _LONGEST_EXPONENT or abs(int(exponent or 0)) > _LARGEST_EXPONENT:
        return False
    return len(mantissa.partition(".")[2]) + abs(int(exponent or 0)) <= _MOST_PLACES


def _members_of(model: type[msgspec.Struct], kind: type[inspect.Type]) -> Sequence[str]:
    shape = inspect.type_info(model)
    assert isinstance(shape, inspect.StructType)
    return [
        field.name
        for field in shape.fields
        if any(isinstance(one, kind) for one in chain([field.type], getattr(field.type, "types", ())))
    ]


COLLECTIONS: Final[Mapping[str, Collection]] = {
    collection.name: collection
    for collection in (
        Collection("messages", Message, Keep.FIRST),
        Collection("users", User, Keep.NEWEST),
    )
}
"""Every collection, one line each."""


# --- judging ----------------------------------------------------------------------------------------

_AT: Final = " - at `$"
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST_TOLD: Final = 200  # letters of a message or a pointer, in which names that came with the record may stand
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_NUL: Final = b"\\u0000"
_WIDEST_ZONE: Final = timedelta(hours=16)  # PostgreSQL knows none from here on


TOO_LARGE: Final = "E.RECORD.TOO_LARGE"


def judge(
    collection: Collection, lines: Sequence[bytes], *, first_index: int, max_bytes: int
) -> tuple[Sequence[bytes], Sequence[tuple[Refusal, bytes]]]:
    """Judge each line as one record: the good ones as they came, and why the others are not.

    Never raises for what a line holds.
    """
    good: list[bytes] = []
    bad: list[tuple[Refusal, bytes]] = []
    too_large = Fault(TOO_LARGE, f"has more than {max_bytes} bytes")
    for index, line in enumerate(lines, start=first_index):
        fault = too_large if len(line) > max_bytes else fault_of(collection, line)
        if fault is None:
            good.append(line)
        else:
            refusal = Refusal(index=index, code=fault.code, message=fault.message, pointer=fault.pointer)
            bad.append((refusal, line))
    return good, bad


def all_good(collection: Collection, text: bytes) -> int | None:
    """How many records the lines of ``text`` hold if each line is one and good; None where each has to be looked at."""
    breaks = text.count(b"\n")
    if not _is_one_each(text, breaks) or _has_odd_text(text):
        return None
    try:
        records = collection.decoder.decode_lines(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    # At each of the breaks a record ends, as none can go on with a brace: if there are no more records, one is a line.
    if len(records) != breaks + 1:
        return None
    for name in collection.moments:
        if not all(map(_is_plain, map(attrgetter(name), records))):
            return None
    # Each record has one brace of its own; if all others were in one record, would it be too deep?
    nested = text.count(b"{") + text.count(b"[") - len(records)
    return None if nested >= MOST_LEVELS and any(_is_deep(line) for line in text.split(b"\n")) else len(records)


def _is_one_each(text: bytes, breaks: int) -> bool:
    """Whether each line begins with a brace and ends with one."""
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return False
    return breaks == text.count(b"}\n{") + (text.count(b"}\r\n{") if b"\r" in text else 0)


class Fault(NamedTuple):
    """Why a record is not acceptable: a code, and a sentence without its values."""

    code: str
    message: str
    pointer: str = ""


def fault_of(collection: Collection, line: bytes) -> Fault | None:
    """Why a record is not acceptable; None where it is."""
    try:
        record = collection.decoder.decode(line)
    except msgspec.ValidationError as fault:
        return _invalid(fault)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Fault("E.RECORD.MALFORMED", "is not JSON in UTF-8")
    except RecursionError:
        return _TOO_DEEP
    if _is_deep(line):
        return _TOO_DEEP
    return (_fault_of_text(line) if _has_odd_text(line) else None) or _fault_of_moment(collection, record)


_TOO_DEEP: Final = Fault("E.RECORD.TOO_DEEP", f"is nested more than {MOST_LEVELS} levels deep")


def _has_odd_text(text: bytes) -> bool:
    """Whether PostgreSQL may refuse a text in it though it is good JSON; cheap, and wrong only one way."""
    # One byte is found ten times as fast as two.
    return b"\\" in text and (_NUL in text or _SURROGATE.search(text) is not None)


def _is_plain(moment: datetime | None) -> bool:
    """Whether a moment can be saved and read back."""
    if moment is None or (moment.tzinfo is UTC and MINYEAR < moment.year < MAXYEAR):
        return True
    return _has_known_zone(moment) and _is_in_calendar(moment)


def _has_known_zone(moment: datetime) -> bool:
    return abs(moment.utcoffset() or timedelta(0)) < _WIDEST_ZONE


def _is_in_calendar(moment: datetime) -> bool:
    # PostgreSQL knows more years, and Python could not read them back.
    try:
        moment.astimezone(UTC)
    except OverflowError:
        return False
    return True


def _is_deep(line: bytes) -> bool:
    if line.count(b"{") + line.count(b"[") <= MOST_LEVELS:
        return False
    try:
        return _deeper_than(MOST_LEVELS, msgspec.json.decode(line))
    except RecursionError:
        return True


def _deeper_than(most: int, data: Any) -> bool:
    level = [data]
    for _ in range(most):
        level = [child for value in level for child in _children(value) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)


def _fault_of_text(line: bytes) -> Fault | None:
    for text in _texts(msgspec.json.decode(line)):
        if "\x00" in text:
            return Fault("E.RECORD.TEXT", "contains a NUL character")
        try:
            text.encode()
        except UnicodeEncodeError:
            return Fault("E.RECORD.TEXT", "contains a lone surrogate")
    return None


def _fault_of_moment(collection: Collection, record: msgspec.Struct) -> Fault | None:
    for name in collection.moments:
        moment = getattr(record, name)
        if not _is_plain(moment):
            zone = "the offset from UTC is not below 16 hours"
            message = "is not in the years 1 to 9999 of UTC" if _has_known_zone(moment) else zone
            return Fault("E.RECORD.INVALID", message, f"/{name}")
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _invalid(fault: msgspec.ValidationError) -> Fault:
    message, _, path = str(fault).rpartition(_AT)
    if not message:
        message, path = path, ""
    pointer = "".join(f"/{part}" for part in re.findall(r"[^.\[\]`]+", path.partition("[...]")[0][:_LONGEST_TOLD]))
    return Fault("E.RECORD.INVALID", _told(message), _told(pointer))


def _told(text: str) -> str:
    """What may be told, and written down: msgspec repeats names of members as they came, whatever is in them."""
    short = text if len(text) <= _LONGEST_TOLD else text[: _LONGEST_TOLD - 1] + "…"
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", short)
