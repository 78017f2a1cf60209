"""Lists that are tables: their entries read back into columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_ENTRY: Final = re.compile(r"^(?P<first>[^:;!?]{1,100}?)(?:\s+[\u2013\u2014]\s+|:\s+)(?P<rest>\S.*)$", re.DOTALL)
_CELL: Final = re.compile(r"^(?P<name>[^:;]{1,60}): (?P<cell>\S.*)$", re.DOTALL)
_FEWEST_ROWS: Final = 2
_MOST_COLUMNS: Final = 5
_MISSING: Final = "\N{EN DASH}"


@dataclass(frozen=True)
class Row:
    """One entry of a list: what it is about, what is said of it, and the list item itself."""

    first: str
    cells: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Table:
    """Rows of the same width. ``names`` head the columns after the first; empty where there is one without a name."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]


def table_of(bullets: Sequence[str]) -> Table | None:
    """The table that a list is, or None for a list that is none: every entry names a thing of its own and explains it.

    A row of a table in a source has come here as ``first — name: cell; name: cell``.
    """
    found = [(_ENTRY.match(" ".join(bullet.split())), bullet) for bullet in bullets]
    entries = [(match["first"].strip(), match["rest"].strip(), bullet) for match, bullet in found if match]
    if len(entries) < max(len(bullets), _FEWEST_ROWS) or len({first.casefold() for first, _, _ in entries}) < len(
        entries
    ):
        return None
    return _with_columns(entries) or Table((), tuple(Row(first, (rest,), bullet) for first, rest, bullet in entries))


def _with_columns(entries: Sequence[tuple[str, str, str]]) -> Table | None:
    rows = [(first, _named_cells(rest), bullet) for first, rest, bullet in entries]
    names = tuple(dict.fromkeys(name for _, cells, _ in rows for name in cells))
    if not 1 < len(names) <= _MOST_COLUMNS or any(len(cells) < len(names) - 1 for _, cells, _ in rows):
        return None
    return Table(
        names,
        tuple(Row(first, tuple(cells.get(name, _MISSING) for name in names), bullet) for first, cells, bullet in rows),
    )


def _named_cells(rest: str) -> dict[str, str]:
    found = [_CELL.match(part) for part in rest.split("; ")]
    cells = [(match["name"].strip(), match["cell"].strip()) for match in found if match]
    return dict(cells) if len(cells) == len(found) else {}
