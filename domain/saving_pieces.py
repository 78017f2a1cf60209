"""Cutting what comes in into pieces: some hundred records each, judged, one line a record. Pure functions of bytes."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from domain.saving import Refusal
from domain.saving_records import TOO_LARGE, Collection, all_good, judge

PIECE_BYTES: Final = 262_144
"""How much text is judged, and written, at once."""

KEPT_OF_TOO_LARGE_BYTES: Final = 1_024
_JUDGED_AT_ONCE: Final = 1_000  # lines, where each has to be looked at
MOST_REFUSALS: Final = 1_000
"""How many refusals are listed in an answer; each one is among the dead letters."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive records of a batch, one line each.

    ``skipped`` are the places, counted from ``first_index``, of records in between that are not here. Where ``refused``
    is True the lines tell of records that were not acceptable, see ``refused_line``.
    """

    first_index: int
    records: int
    body: bytes
    skipped: Sequence[int] = ()
    refused: bool = False


@dataclass
class Tally:
    """What was seen of a batch so far."""

    received: int = 0
    rejected: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        """Records without a fault."""
        return self.received - self.rejected

    def refuse(self, refusal: Refusal) -> None:
        """Count a record that is not acceptable, and list it while there is room."""
        self.rejected += 1
        if len(self.refusals) < MOST_REFUSALS:
            self.refusals.append(refusal)


class PieceMaker:
    """Cuts lines out of chunks, judges them, and hands them on in pieces. Holds one piece and one line at most."""

    def __init__(self, collection: Collection, *, max_record_bytes: int, first_index: int = 0) -> None:
        self._collection = collection
        self._most = max_record_bytes
        self._index = first_index
        self._parts: list[bytes] = []
        self._length = 0
        self._in_too_large = False
        self.tally = Tally()

    @property
    def held_bytes(self) -> int:
        """Bytes that were fed and have not come out: the beginning of a line, or of a piece."""
        return self._length

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Take in a chunk of any size; the pieces that it completes."""
        view = memoryview(chunk)
        for start in range(0, len(chunk), PIECE_BYTES):
            part = bytes(view[start : start + PIECE_BYTES])
            self._parts.append(part)
            self._length += len(part)
            if self._length >= PIECE_BYTES:
                yield from self._cut()

    def finish(self) -> Iterator[Piece]:
        """The rest, once everything was fed; the last line needs no line break."""
        text = self._take()
        if self._in_too_large:
            text = text.partition(b"\n")[2]
            self._in_too_large = False
        yield from self.judge_text(text)

    def judge_text(self, text: bytes) -> Iterator[Piece]:
        """Pieces of whole lines."""
        text = text.strip()
        if not text:
            return
        if len(text) <= self._most or max(map(len, text.split(b"\n"))) <= self._most:
            records = all_good(self._collection, text)
            if records is not None:
                yield self._good(text, records, ())
                return
        yield from self.judge_lines([line for line in text.split(b"\n") if line.strip()])

    def judge_lines(self, lines: Sequence[bytes]) -> Iterator[Piece]:
        """Pieces of records that have no line break in them, judged some at a time."""
        for start in range(0, len(lines), _JUDGED_AT_ONCE):
            few = lines[start : start + _JUDGED_AT_ONCE]
            first = self._index
            good, bad = judge(self._collection, few, first_index=first, max_bytes=self._most)
            if good:
                yield self._good(b"\n".join(good), len(good), [refusal.index - first for refusal, _ in bad])
            if bad:
                yield self._bad(bad)
            self._index = first + len(few)

    def _good(self, body: bytes, records: int, skipped: Sequence[int]) -> Piece:
        piece = Piece(first_index=self._index, records=records, body=body, skipped=skipped)
        self._index += records
        self.tally.received += records
        return piece

    def _bad(self, bad: Sequence[tuple[Refusal, bytes]]) -> Piece:
        self.tally.received += len(bad)
        for refusal, _ in bad:
            self.tally.refuse(refusal)
        body = b"\n".join(refused_line(refusal, raw) for refusal, raw in bad)
        return Piece(first_index=bad[0][0].index, records=len(bad), body=body, refused=True)

    def _cut(self) -> Iterator[Piece]:
        text = self._take()
        whole, line_break, rest = text.rpartition(b"\n")
        if self._in_too_large and line_break:
            whole = whole.partition(b"\n")[2]
            self._in_too_large = False
        if not self._in_too_large and line_break:
            yield from self.judge_text(whole)
        if self._in_too_large:
            rest = b""
        elif len(rest) > self._most:
            # Nobody waits for the end of a line that is too long already.
            yield from self.judge_lines([rest])
            self._in_too_large, rest = True, b""
        self._parts, self._length = ([rest], len(rest)) if rest else ([], 0)

    def _take(self) -> bytes:
        text = b"".join(self._parts)
        self._parts, self._length = [], 0
        return text


def refused_line(refusal: Refusal, raw: bytes) -> bytes:
    """One line about a record that is not acceptable, with its bytes whatever they are."""
    whole = refusal.code != TOO_LARGE
    kept = base64.b64encode(raw if whole else raw[:KEPT_OF_TOO_LARGE_BYTES]).decode()
    return msgspec.json.encode({
        "index": refusal.index, "code": refusal.code, "message": refusal.message, "pointer": refusal.pointer,
        "payload": kept, "whole": whole,
    })  # fmt: skip


def index_of(first_index: int, skipped: Sequence[int], place: int) -> int:
    """Which record of the batch stands at ``place`` of a piece, counted from zero."""
    index = place
    for gap in skipped:
        if gap > index:
            break
        index += 1
    return first_index + index
