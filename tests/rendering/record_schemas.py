"""``python -m tests.rendering.record_schemas``: write the published schemas of the JSON export anew."""

import json
from pathlib import Path
from typing import Final

from rendering.course_json import course_json_schema
from rendering.course_parts import Profile

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "schemas"
PROFILES: Final[tuple[Profile, ...]] = ("full", "minimal")


def path_of(profile: Profile) -> Path:
    """Where the schema of a profile is published."""
    return FOLDER / f"course-1-{profile}.schema.json"


def text_of(profile: Profile) -> str:
    """What ought to be there."""
    return json.dumps(course_json_schema(profile), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in PROFILES:
        path_of(each).write_text(text_of(each), encoding="utf-8")
