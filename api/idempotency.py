"""The Idempotency-Key header."""

import re
from typing import Final

from domain.errors import IdempotencyKeyInvalid

_LONGEST: Final = 255
# A structured-field string (RFC 9651): printable ASCII, with only the quote and the backslash escaped.
_QUOTED: Final = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


def parse_key(header: str | None) -> str | None:
    """The key in the header: a structured-field string or, leniently, bare. Raises IdempotencyKeyInvalid."""
    if header is None:
        return None
    quoted = _QUOTED.fullmatch(header.strip())
    if quoted is not None:
        key = re.sub(r"\\(.)", r"\1", quoted.group(1))
    elif _BARE.fullmatch(header.strip()):
        key = header.strip()
    else:
        raise IdempotencyKeyInvalid('Idempotency-Key must be a structured-field string, such as "8e03978e"')
    if not 1 <= len(key) <= _LONGEST:
        raise IdempotencyKeyInvalid(f"Idempotency-Key has between 1 and {_LONGEST} characters")
    return key


def key_of_item(key: str | None, index: int) -> str | None:
    """The key of one item of a batch; it cannot be spelled in a header, so it meets no other."""
    return None if key is None else f"{key}\x1f{index}"
