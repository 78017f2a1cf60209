"""A course in one of its export formats, as a file ready to be stored and downloaded."""

# ruff: noqa: RUF001 - letters that look like Latin ones are here to become Latin ones

import re
import unicodedata
from dataclasses import dataclass

from domain.generation import Course, Export
from rendering.course_html import course_html
from rendering.course_json import course_json
from rendering.course_markdown import course_markdown
from rendering.course_parts import Profile

_MAX_SLUG = 80
_FALLBACK = "course"
_NOT_IN_SLUG = re.compile(r"[^a-z0-9]+")
_WINDOWS_DEVICE = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")
_LATIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
    | dict(zip("абвгдезийклмнопрстуфыэ", "abvgdeziyklmnoprstufye", strict=True))
    | {"ё": "yo", "ж": "zh", "х": "kh", "ц": "ts", "ч": "ch", "ш": "sh", "щ": "shch", "ъ": "", "ь": ""}
    | {"ю": "yu", "я": "ya", "є": "ye", "і": "i", "ї": "yi", "ґ": "g", "ў": "u"}
)


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A finished file. ``name`` is plain ASCII and safe on every file system."""

    name: str
    media_type: str
    body: bytes


def render(course: Course, *, export: Export, profile: Profile) -> RenderedFile:
    """The course in the wished format, named after its title; equal courses give equal files."""
    slug = slug_of(course.title)
    match export:
        case Export.JSON:
            return RenderedFile(f"{slug}.json", "application/json", course_json(course, profile=profile))
        case Export.MARKDOWN:
            body = course_markdown(course, profile=profile)
            return RenderedFile(f"{slug}.md", "text/markdown; charset=utf-8", body)
        case Export.HTML:
            return RenderedFile(f"{slug}.html", "text/html; charset=utf-8", course_html(course, profile=profile))


def slug_of(title: str) -> str:
    """The title in small ASCII letters, digits and single hyphens; ``course`` where nothing is left of it."""
    latin = unicodedata.normalize("NFC", title).lower().translate(_LATIN)
    ascii_only = unicodedata.normalize("NFKD", latin).encode("ascii", "ignore").decode()
    slug = _shortened(_NOT_IN_SLUG.sub("-", ascii_only).strip("-"))
    if _WINDOWS_DEVICE.fullmatch(slug):
        return f"{_FALLBACK}-{slug}"
    return slug or _FALLBACK


def _shortened(slug: str) -> str:
    """The slug cut between two words where there are two."""
    if len(slug) <= _MAX_SLUG:
        return slug
    return slug[: _MAX_SLUG + 1].rpartition("-")[0] or slug[:_MAX_SLUG]
