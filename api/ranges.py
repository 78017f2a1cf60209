"""The Range header, as far as it is served: one range of bytes."""

import re
from typing import Final

_ONE_RANGE: Final = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")


class Unsatisfiable(Exception):
    """The range lies outside."""


def parse_range(header: str | None, length: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of the one range asked for; None where all is to be sent. Raises Unsatisfiable.

    What is not understood (another unit, several ranges) is ignored, as RFC 9110 has it.
    """
    found = None if header is None else _ONE_RANGE.fullmatch(header)
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if first == "":
        start, end = max(length - int(last), 0), length
    elif last != "" and int(last) < int(first):
        return None
    else:
        start, end = int(first), length if last == "" else min(int(last) + 1, length)
    if start >= end:
        raise Unsatisfiable
    return start, end
