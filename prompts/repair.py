"""The one repair of an answer that does not fit its schema. Used by every structured call."""

from collections.abc import Sequence
from typing import Final

from domain.generation import Message
from prompts.prompt import OWNER, Prompt

PROMPT: Final = Prompt(
    id="repair",
    version="1",
    owner=OWNER,
    changelog=("1: first version",),
    system="",
    user=(
        "Your answer does not fit the schema:\n{faults}\n\n"
        "Answer again with the whole corrected JSON document and nothing else."
    ),
)

_MOST_FAULTS: Final = 20


def render(asked: Sequence[Message], answer: str, faults: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """The original messages, the last answer, and what is wrong with it; nothing older is carried along."""
    listed = "\n".join(f"- {path or '/'}: {message}" for path, message in faults[:_MOST_FAULTS])
    return (
        *asked,
        Message(role="assistant", content=answer),
        Message(role="user", content=PROMPT.user.format(faults=listed)),
    )
