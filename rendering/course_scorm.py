"""A course as a SCORM 1.2 package: each finished lesson is a SCO that tells the LMS when it has been read."""

from domain.generation import Course, Lesson, Module
from rendering.course_overview import footer, header, source_list
from rendering.course_parts import Profile, is_good, one_line, quiz_of
from rendering.course_site import Place, framed, lesson_page, module_sections, page_name, site_css
from rendering.course_words import Words, words_for
from rendering.html_pieces import language_of, page, template
from rendering.markup import NOTHING, Html, element, joined, sanitised, text
from rendering.packages import packed

_PACKAGING = "http://www.imsproject.org/xsd/imscp_rootv1p1p2"
_ADL = "http://www.adlnet.org/xsd/adlcp_rootv1p2"
_OVERVIEW = "overview.html"
_END = "})();\n"
_LONGEST_TITLE = 200  # what the standard obliges an LMS to keep


def course_scorm(course: Course, *, profile: Profile) -> bytes:
    """A ZIP archive with ``imsmanifest.xml`` and a page for each lesson; equal courses give equal bytes.

    A draft is in the package as an asset: it can be read, and nobody can complete it.
    """
    files = {"imsmanifest.xml": _manifest(course), _OVERVIEW: _overview(course, profile)}
    for number, module in enumerate(course.modules, start=1):
        for place, lesson in enumerate(module.lessons, start=1):
            script = _script(lesson) if is_good(lesson) else ""
            files[page_name((number, place))] = lesson_page(course, lesson, (number, place), script=script)
    return packed(files)


def _script(lesson: Lesson) -> str:
    """What tells the LMS that the lesson was read, and where it has questions how they were answered."""
    script = template("sco.js")
    return script if quiz_of(lesson) is None else script.removesuffix(_END) + template("sco_score.js") + _END


def _overview(course: Course, profile: Profile) -> bytes:
    """What the course is about. It leads nowhere: in an LMS the LMS does."""
    language = language_of(course.language)
    words = words_for(language)
    main = element(
        "main",
        module_sections(course, words, linked=False, level=2),
        source_list(course, words),
        id="main",
        tabindex="-1",
    )
    made = footer(course, words) if profile == "full" else NOTHING
    return page(
        language=language,
        title=one_line(course.title) or words.untitled,
        css=site_css(),
        body=sanitised(framed([header(course, words), main, made], words)),
    )


# --- the manifest -----------------------------------------------------------------------------------


def _manifest(course: Course) -> bytes:
    words = words_for(language_of(course.language))
    title = one_line(course.title) or words.untitled
    metadata = element("metadata", element("schema", text("ADL SCORM")), element("schemaversion", text("1.2")))
    modules = (_module_item(module, number, words) for number, module in enumerate(course.modules, start=1))
    items = [_title(title), _item(_OVERVIEW, title), *modules]
    organization = element("organization", joined(items), identifier="course")
    attributes = {"identifier": f"course-{course.id}", "version": course.schema_version, "xmlns": _PACKAGING}
    manifest = element(
        "manifest",
        joined([metadata, element("organizations", organization, default="course"), _resources(course)]),
        **attributes,
        **{"xmlns:adlcp": _ADL},
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{manifest}\n'.encode()


def _module_item(module: Module, number: int, words: Words) -> Html:
    lessons = (_lesson_item(lesson, (number, place), words) for place, lesson in enumerate(module.lessons, start=1))
    title = f"{number} {one_line(module.title) or words.untitled}"
    return element("item", _title(title), joined(lessons), identifier=f"item-module-{number}", isvisible="true")


def _lesson_item(lesson: Lesson, place: Place, words: Words) -> Html:
    mark = "" if is_good(lesson) else f" ({words.statuses[lesson.status]})"
    title = f"{place[0]}.{place[1]} {one_line(lesson.title) or words.untitled}"
    return _item(page_name(place), title[: _LONGEST_TITLE - len(mark)] + mark)


def _item(file: str, title: str) -> Html:
    name = _name(file)
    return element("item", _title(title), identifier=f"item-{name}", identifierref=f"page-{name}", isvisible="true")


def _title(title: str) -> Html:
    return element("title", text(title[:_LONGEST_TITLE]))


def _resources(course: Course) -> Html:
    lessons = (
        _resource(page_name((number, place)), "sco" if is_good(lesson) else "asset")
        for number, module in enumerate(course.modules, start=1)
        for place, lesson in enumerate(module.lessons, start=1)
    )
    return element("resources", joined([_resource(_OVERVIEW, "asset"), *lessons]))


def _resource(file: str, kind: str) -> Html:
    attributes = {"identifier": f"page-{_name(file)}", "type": "webcontent", "href": file, "adlcp:scormtype": kind}
    return element("resource", element("file", href=file), **attributes)


def _name(file: str) -> str:
    return file.removesuffix(".html")
