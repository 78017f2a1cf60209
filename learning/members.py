"""The updates of a round while they are aggregated: which are usable, how far each moved, their values by block."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning.weights import (
    BLOCK_VALUES,
    Block,
    BlockReader,
    Layout,
    Refusal,
    Schema,
    WeightsRefused,
    check_schema,
    delta_norm,
    opened,
    read_layout,
    sum_of_squares,
)

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class UpdateRef:
    """One accepted update: a file of weights with its digest (hexadecimal) and how many samples are behind it."""

    path: Path
    sha256: str
    examples: int


@dataclass(slots=True)
class Member:
    """An update on its way into the model."""

    ref: UpdateRef
    layout: Layout | None = None
    squares: float = math.nan
    """Squared length of the difference to the parent; not finite until measured, or where a value is not."""
    share: float = 0.0
    clip_factor: float = 1.0
    refused: str | None = None

    def read(self, block: Block, buffer: bytearray) -> NDArray[Any]:
        """The values of ``block``, a view of ``buffer``."""
        assert self.layout is not None, "a refused update is not read"
        # Opened for each block: a round may have more updates than a process may have open files.
        with opened(self.ref.path) as reader:
            return BlockReader(reader, self.layout).read(block, buffer)


def admit(updates: Sequence[UpdateRef], schema: Schema, *, verify_digests: bool) -> list[Member]:
    """A member for each update; those that cannot be used say why."""
    layouts: dict[tuple[int, ...], Layout] = {}  # shared: the updates of a round look alike, and may be thousands
    return [_admit(Member(update), schema, layouts, verify_digests=verify_digests) for update in updates]


def _admit(member: Member, schema: Schema, layouts: dict[tuple[int, ...], Layout], *, verify_digests: bool) -> Member:
    if member.ref.examples < 1:
        member.refused = "examples"
    elif verify_digests and digest_of(member.ref.path) != member.ref.sha256:
        member.refused = "digest"
    else:
        try:
            layout = read_layout(member.ref.path)
            check_schema(layout.specs, schema)
            member.layout = layouts.setdefault(tuple(layout.begins[name] for name in schema), layout)
        except WeightsRefused as refusal:
            member.refused = refusal.reason.value
    return member


def digest_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def usable(members: Sequence[Member]) -> list[Member]:
    """Those with which nothing is wrong."""
    return [member for member in members if member.refused is None]


def measure(members: Sequence[Member], base: BlockReader) -> None:
    """Find out how far each member moved; one with a value that is not finite is refused."""
    for member in usable(members):
        assert member.layout is not None
        try:
            with opened(member.ref.path) as reader:
                member.squares = delta_norm(BlockReader(reader, member.layout), base) ** 2
        except WeightsRefused as refusal:
            member.refused = refusal.reason.value


def refuse_not_finite(members: Sequence[Member]) -> bool:
    """Refuse the measured members that have a value that is not finite; whether there were any."""
    bad = [member for member in members if not math.isfinite(member.squares)]
    for member in bad:
        member.refused, member.share = Refusal.NOT_FINITE.value, 0.0
    return bool(bad)


class Rows:
    """The differences of all members as a matrix: a row for each, scaled by its clipping."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._buffer = bytearray(BLOCK_VALUES * 8)

    def __call__(self, block: Block, base: Values) -> Values:
        """The matrix of one block, whose values in the parent are ``base``."""
        rows = np.empty((len(self._members), len(base)))
        for row, member in zip(rows, self._members, strict=True):
            np.subtract(member.read(block, self._buffer), base, out=row)
            if member.clip_factor != 1.0:
                np.multiply(row, member.clip_factor, out=row)
        return rows


class WeightedSum:
    """The sum of all differences by their shares, one at a time, measuring each on the way if it has not been."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._measuring = any(math.isnan(member.squares) for member in members)
        self._buffer = bytearray(BLOCK_VALUES * 8)
        self._delta = np.empty(BLOCK_VALUES)
        self._scaled = np.empty(BLOCK_VALUES)
        for member in members if self._measuring else ():
            member.squares = 0.0

    def __call__(self, block: Block, base: Values) -> Values:
        """The sum for one block, whose values in the parent are ``base``."""
        delta, scaled = self._delta[: len(base)], self._scaled[: len(base)]
        total = np.zeros(len(base))
        for member in self._members:
            np.subtract(member.read(block, self._buffer), base, out=delta)
            np.multiply(delta, member.share * member.clip_factor, out=scaled)
            total += scaled
            if self._measuring:
                member.squares += sum_of_squares(delta)
        return total
