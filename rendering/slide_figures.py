"""Tables on slides: how wide their columns are, how high their rows, and where a long one goes on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from domain.generation import SlideFigure
from rendering.course_parts import one_line
from rendering.text_width import cut, width, wrapped

CELL_SHARE: Final = 0.8
"""The size of letters in a table, as a share of that in the body."""
_TABLE_UNITS: Final = 86.0
"""How many letters of middling width stand side by side in the whole table."""
_PADDING_UNITS: Final = 3.0
_PADDING_LINES: Final = 0.45
_LEAST_SHARE: Final = 0.12
_LONGEST_CELL: Final = 60.0
_CELL_UNITS: Final = 420


@dataclass(frozen=True, slots=True)
class Figure:
    """A table, or a part of one that goes on. Heights are in lines of the slide's body, widths are shares of one."""

    caption: str
    rows: tuple[tuple[str, ...], ...]
    """The row of headings first."""
    widths: tuple[float, ...]
    heights: tuple[float, ...]

    @property
    def lines(self) -> float:
        """How high it is."""
        return sum(self.heights)


def figures(figure: SlideFigure, *, first: float, others: float = 12.0) -> list[Figure]:
    """The table in pieces that fit: the first into ``first`` lines, the others into ``others``.

    Each piece repeats the headings. Empty where not even one row fits into the first.
    """
    header = tuple(map(_cell, figure.header))
    rows = [tuple(map(_cell, row)) for row in figure.rows]
    shares = _shares([header, *rows])
    top = _height(header, shares)
    pieces: list[Figure] = []
    page: list[tuple[tuple[str, ...], float]] = []
    left = first - top
    for row in rows:
        needs = _height(row, shares)
        if needs > left and not page and not pieces and first < others:
            return []
        if needs > left and page:
            pieces.append(_piece(figure, header, top, page, shares))
            page, left = [], others - top
        page.append((row, needs))
        left -= needs
    return [*pieces, _piece(figure, header, top, page, shares)]


def _piece(
    figure: SlideFigure,
    header: tuple[str, ...],
    top: float,
    page: Sequence[tuple[tuple[str, ...], float]],
    shares: tuple[float, ...],
) -> Figure:
    return Figure(
        one_line(figure.caption),
        (header, *(row for row, _ in page)),
        shares,
        (top, *(height for _, height in page)),
    )


def _cell(text: str) -> str:
    return cut(one_line(text), _CELL_UNITS)


def _shares(rows: Sequence[tuple[str, ...]]) -> tuple[float, ...]:
    """Columns as wide as their longest cell asks for, within reason."""
    wanted = [max(min(max(map(width, column)), _LONGEST_CELL), 1.0) for column in zip(*rows, strict=True)]
    least = min(_LEAST_SHARE, 1 / len(wanted))
    raised = [max(want / sum(wanted), least) for want in wanted]
    return tuple(share / sum(raised) for share in raised)


def _height(row: tuple[str, ...], shares: tuple[float, ...]) -> float:
    return max(_rows_of(row, shares)) * CELL_SHARE + _PADDING_LINES


def _rows_of(row: tuple[str, ...], shares: tuple[float, ...]) -> Iterator[int]:
    for text, share in zip(row, shares, strict=True):
        yield max(len(wrapped(text, max(share * _TABLE_UNITS - _PADDING_UNITS, 2.0))), 1)
