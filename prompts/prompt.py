"""What a prompt is on record."""

import hashlib
import re
from typing import Final

from domain.model import Frozen


class Prompt(Frozen):
    """A prompt's identity and its fixed text. ``changelog`` says what each version changed, newest first."""

    id: str
    version: str
    owner: str
    changelog: tuple[str, ...]
    system: str
    user: str

    @property
    def text(self) -> str:
        """Everything that is fixed about the prompt."""
        return f"{self.system}\n\n---\n\n{self.user}"

    @property
    def sha256(self) -> str:
        """The checksum of the fixed text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


OWNER: Final = "generation"

_TAG: Final = re.compile(r"<(?=\s*/?\s*sources\b)", re.IGNORECASE)


def as_material(text: str) -> str:
    """Source text as it may stand between <sources> and </sources>: it can neither close that block nor open one."""
    return _TAG.sub("&lt;", text)
