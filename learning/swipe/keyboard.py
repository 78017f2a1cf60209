"""Where the keys are, in widths of a key: the centre of Q at (0.5, 0.5), y downwards; and which words there are."""

from functools import cache
from importlib.resources import files
from typing import Final

_ROWS: Final = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))

WIDTH: Final = 10.0
HEIGHT: Final = 3.0

KEYS: Final = {
    letter: (shift + column + 0.5, row + 0.5)
    for row, (letters, shift) in enumerate(_ROWS)
    for column, letter in enumerate(letters)
}
"""The centre of each key of a QWERTY layout."""


@cache
def vocabulary() -> tuple[str, ...]:
    """The words that can be told apart, in the order of the model's outputs (``words.txt``)."""
    lines = files("learning.swipe").joinpath("words.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))
