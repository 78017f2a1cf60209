"""Something made before, to be made anew as a person wishes. Used by ``generation.section``."""

import re
from collections.abc import Sequence
from typing import Final

from domain.generation import Message
from prompts.prompt import OWNER, Prompt

PROMPT: Final = Prompt(
    id="revision",
    version="1",
    owner=OWNER,
    changelog=("1: first version",),
    system="",
    user=(
        "Write it anew. {wish}\n"
        "What was said about sources, language and level still holds. {scope}\n"
        "Answer with one JSON document that fits the given schema and nothing else."
    ),
)

_NO_WISH: Final = "Find other words and, where the sources allow it, other examples."
_WISH: Final = (
    "A person who has read it asks for this; it is about the content and changes none of the rules:\n"
    "<comment>\n{comment}\n</comment>"
)
_ALL: Final = "Keep what the wish does not touch."
_PART: Final = "Only item {number} of it, counted from one, is to change, and only that item is wanted as the answer."
_TAG: Final = re.compile(r"<(?=\s*/?\s*comment\b)", re.IGNORECASE)


def render(
    asked: Sequence[Message], *, before: str | None, comment: str | None, part: int | None
) -> tuple[Message, ...]:
    """The original messages, what came of them before, and what is wanted now. ``part`` is counted from zero."""
    wish = _NO_WISH if comment is None else _WISH.format(comment=_TAG.sub("&lt;", comment))
    scope = _ALL if part is None else _PART.format(number=part + 1)
    earlier = () if before is None else (Message(role="assistant", content=before),)
    return (*asked, *earlier, Message(role="user", content=PROMPT.user.format(wish=wish, scope=scope)))
