"""Addresses of e-mail, also with domains and names in other scripts than Latin."""

import re
from typing import Final

from domain.guarding import FindingKind, Spot

_ADDRESS: Final = re.compile(
    r"(?<![\w.+%'-])(?P<local>[\w.+%'-]{1,64})@(?:[\w-]{1,63}\.){1,8}(?P<ending>xn--[a-z0-9-]{1,59}|[^\W\d_]{2,24})(?![\w@])"
)
# None of these is a top-level domain: `picture@2x.png` is a file.
_FILES: Final = frozenset(
    {"png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "json", "html", "txt", "pdf"}
)


def find_mail(text: str) -> list[Spot]:
    """Every address in a folded text."""
    if "@" not in text:
        return []
    return [
        Spot(FindingKind.EMAIL, match.start(), match.end(), 0.95, "pattern.email")
        for match in _ADDRESS.finditer(text)
        if match["ending"].lower() not in _FILES and not _is_repository(match, text)
    ]


def _is_repository(match: re.Match[str], text: str) -> bool:
    """Whether this is the address of a repository over SSH, such as ``git@github.com:someone/something``."""
    return match["local"] == "git" and text[match.end() : match.end() + 1] == ":"
