"""Another outline, after a person did not agree to the one before. Used by ``write_outline`` from round two on."""

from typing import Final

from domain.generation import Message, OutlineTask
from prompts import course_outline
from prompts.prompt import OWNER, Prompt, as_material

PROMPT: Final = Prompt(
    id="course-outline-revision",
    version="1",
    owner=OWNER,
    changelog=("1: first version",),
    system="",
    user=(
        "A person has read this outline and did not accept it. What they said, oldest first:\n"
        "<comments>\n{comments}\n</comments>\n\n"
        "Design the course again so that it does what they ask for, as far as the sources allow. Everything asked for "
        "before still holds: the numbers of modules and lessons, the language, and that only what the sources say is "
        "used. Where they gave no reason, choose a clearly different structure. "
        "Answer with the whole new JSON document and nothing else."
    ),
)

_NO_REASON: Final = "(no reason given)"


def render(task: OutlineTask) -> tuple[Message, ...]:
    """The first wish, the outline that was not accepted, and what people said. Only the latest outline is shown."""
    assert task.previous is not None, "there is a first outline before a second one"
    said = "\n".join(f"- {as_material(comment) or _NO_REASON}" for comment in task.comments)
    return (
        *course_outline.render(task),
        Message(role="assistant", content=task.previous.model_dump_json()),
        Message(role="user", content=PROMPT.user.format(comments=said)),
    )
