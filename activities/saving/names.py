"""The names of an import's steps."""

from typing import Final

READ_STEP: Final = "read"
SAVE_STEP: Final = "save"
