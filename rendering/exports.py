"""A course in one of its export formats, as a file ready to be stored and downloaded."""

# ruff: noqa: RUF001 - letters that look like Latin ones are here to become Latin ones

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from domain.generation import Course, Export
from rendering.course_html import course_html
from rendering.course_json import course_json
from rendering.course_markdown import course_markdown, course_mdx
from rendering.course_parts import Profile
from rendering.course_pptx import course_pptx
from rendering.course_scorm import course_scorm
from rendering.course_site import course_site

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


class _Writer(Protocol):
    def __call__(self, course: Course, /, *, profile: Profile) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Form:
    """What a file of this export is called, what it is, and how it is written."""

    ending: str
    media_type: str
    write: _Writer


_PRESENTATION = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
_FORMS: Mapping[Export, _Form] = {
    Export.JSON: _Form(".json", "application/json", course_json),
    Export.MARKDOWN: _Form(".md", "text/markdown; charset=utf-8", course_markdown),
    Export.HTML: _Form(".html", "text/html; charset=utf-8", course_html),
    Export.MDX: _Form(".mdx", "text/mdx; charset=utf-8", course_mdx),
    Export.SITE: _Form("-site.zip", "application/zip", course_site),
    Export.PPTX: _Form(".pptx", _PRESENTATION, course_pptx),
    Export.SCORM: _Form("-scorm.zip", "application/zip", course_scorm),
}


def render(course: Course, *, export: Export, profile: Profile) -> RenderedFile:
    """The course in the wished format, named after its title; equal courses give equal files."""
    form = _FORMS[export]
    return RenderedFile(f"{slug_of(course.title)}{form.ending}", form.media_type, form.write(course, profile=profile))


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
