"""Which code this is."""

from typing import Final

VERSION: Final = "0.1.0"
"""The released version; ``pyproject.toml`` says the same, and a test compares them."""
