"""Golden sets: short texts of our own with what a good course made of them has to show.

A set is a folder, a case two files: ``<case>.json`` says what is wanted, and the text lies beside it with the ending
that its ``source_name`` has. All of it is written for this project and free of anybody's licence.
"""

import functools
import json
from pathlib import Path
from typing import Final

from domain.evaluation import GoldenCase, GoldenSet

_FOLDER: Final = Path(__file__).parent


def golden_set_names() -> tuple[str, ...]:
    """The sets there are, sorted."""
    return tuple(sorted(path.name for path in _FOLDER.iterdir() if any(path.glob("*.json"))))


@functools.cache
def load_golden_set(name: str) -> GoldenSet:
    """The set of that name with all its texts. Raises KeyError where there is none."""
    if name not in golden_set_names():
        raise KeyError(name)
    return GoldenSet(name=name, cases=tuple(_load(path) for path in sorted((_FOLDER / name).glob("*.json"))))


def _load(path: Path) -> GoldenCase:
    wanted = json.loads(path.read_text(encoding="utf-8"))
    ending = Path(wanted["source_name"]).suffix
    source = path.with_suffix(ending).read_text(encoding="utf-8")
    return GoldenCase.model_validate({"name": path.stem, "source": source, **wanted})
