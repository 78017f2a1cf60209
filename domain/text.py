"""What counts as acceptable text: everything PostgreSQL, JSON and a browser can hold, and nothing else."""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_LANGUAGE = re.compile(r"^[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?(-[A-Za-z0-9]{5,8})*$")


def storable(text: str) -> str:
    """Return ``text``; raise ValueError for NUL and lone surrogates, which PostgreSQL refuses."""
    if "\x00" in text:
        raise ValueError("contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("contains a lone surrogate") from None
    return text


def single_line(text: str) -> str:
    """Return ``text``; raise ValueError for control characters, among them line breaks."""
    if any(unicodedata.category(char) == "Cc" for char in text):
        raise ValueError("contains a control character")
    return text


def check_language(tag: str) -> str:
    """Return ``tag``; raise ValueError unless it is shaped like a BCP 47 language tag (``en``, ``pt-BR``)."""
    if not _LANGUAGE.fullmatch(tag):
        raise ValueError("is not a BCP 47 language tag")
    return tag


Prose = Annotated[str, StringConstraints(min_length=1), AfterValidator(storable)]
"""Non-empty text that may run over several lines."""

Line = Annotated[
    str,
    StringConstraints(min_length=1, strip_whitespace=True),
    AfterValidator(storable),
    AfterValidator(single_line),
]
"""Non-empty text on one line, surrounding white space removed."""
