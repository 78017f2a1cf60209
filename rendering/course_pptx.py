"""A course as a PowerPoint file: real layouts, speaker notes, one section a module, the same bytes each time."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid5

from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.text import MSO_ANCHOR, MSO_AUTO_SIZE
from pptx.opc.constants import RELATIONSHIP_TYPE
from pptx.oxml import parse_xml
from pptx.util import Inches, Pt

from domain.generation import Course
from rendering.course_parts import Profile, one_line
from rendering.course_slides import Part, Slide, course_slides
from rendering.course_words import words_for
from rendering.html_pieces import is_right_to_left, language_of
from rendering.packages import packed
from rendering.pptx_shortcuts import SlideCopier, package_files
from rendering.slide_figures import Figure
from rendering.text_width import BODY_LINES, GAP_LINES, wrapped

_LAYOUTS: Final = {"title": 0, "content": 1, "section": 2}
_FIGURE_LAYOUT: Final = 5  # a title and nothing else
_WIDTH, _HEIGHT = Inches(13.333), Inches(7.5)
_LEFT: Final = Inches(0.6)
_ACROSS: Final = Inches(12.1)
_INSET: Final = Inches(0.1)  # of text in its frame
_FRAMES: Final = {
    # top and height of the title and of what is below it
    "title": ((Inches(1.6), Inches(2.4)), (Inches(4.2), Inches(2.2))),
    "section": ((Inches(2.0), Inches(1.8)), (Inches(4.0), Inches(2.2))),
    "content": ((Inches(0.4), Inches(1.15)), (Inches(1.7), Inches(5.3))),
    "figure": ((Inches(0.4), Inches(1.15)),),
}
_INK: Final = "1D2125"
_MUTED: Final = "585F68"
_ACCENT: Final = "0F6A5C"
_PAPER: Final = "FFFFFF"
_BODY_SIZE: Final = Pt(20)
_GAP: Final = Pt(7)
_TITLE_SIZES: Final = {
    # up to how many characters a title is set in which size
    "title": ((60, Pt(44)), (120, Pt(34)), (1_000, Pt(26))),
    "section": ((60, Pt(38)), (120, Pt(30)), (1_000, Pt(24))),
    "content": ((55, Pt(30)), (110, Pt(26)), (1_000, Pt(20))),
    "figure": ((55, Pt(30)), (110, Pt(26)), (1_000, Pt(20))),
}
_LINE_HEIGHT: Final = Inches(5.3) / BODY_LINES
_CELL_SIZE: Final = Pt(16)
_BAND: Final = "F3F4EF"
_PLAIN_TABLE: Final = "{2D5ABB26-0587-4C30-8999-92F81FD0307C}"  # no style of its own, no grid: the cells have theirs
_LONGEST_PROPERTY: Final = 255
_SECTION_LIST: Final = "{521415D9-36F7-43E2-AB2F-B90AF26B5E84}"
_P14: Final = "http://schemas.microsoft.com/office/powerpoint/2010/main"
_DML: Final = "http://schemas.openxmlformats.org/drawingml/2006/main"
_PML: Final = "http://schemas.openxmlformats.org/presentationml/2006/main"


def course_pptx(course: Course, *, profile: Profile) -> bytes:
    """The course as slides with notes; equal courses give equal bytes."""
    language = language_of(course.language)
    words = words_for(language)
    deck = _Deck(language)
    sections = [(part, deck.add(part.slides)) for part in course_slides(course, words, profile=profile)]
    deck.add_sections(sections, namespace=course.id)
    deck.describe(course, title=one_line(course.title) or words.untitled)
    return deck.saved()


class _Deck:
    """A presentation on the layouts of python-pptx's own template, made wide and given our colours."""

    def __init__(self, language: str) -> None:
        self._file: Any = Presentation()
        self._language = language
        self._right_to_left = is_right_to_left(language)
        self._file.slide_width, self._file.slide_height = _WIDTH, _HEIGHT
        self._copier = SlideCopier(self._file)
        self._drop_thumbnail()
        self._widen_master()
        self._layouts = {name: self._file.slide_layouts[index] for name, index in _LAYOUTS.items()}
        for name, layout in self._layouts.items():
            _arrange(layout, name)

    def add(self, slides: Iterable[Slide]) -> list[int]:
        """Add slides; their ids in the presentation."""
        return [self._add(slide) for slide in slides]

    def add_sections(self, sections: Sequence[tuple[Part, list[int]]], *, namespace: UUID) -> None:
        """Name groups of slides, for the panel at the side of PowerPoint's window."""
        listed = parse_xml(
            f'<p:extLst xmlns:p="{_PML}"><p:ext uri="{_SECTION_LIST}">'
            f'<p14:sectionLst xmlns:p14="{_P14}"/></p:ext></p:extLst>'
        )
        sections_list = listed[0][0]
        for number, (part, slides) in enumerate(sections):
            ident = f"{{{str(uuid5(namespace, str(number))).upper()}}}"
            section = sections_list.makeelement(f"{{{_P14}}}section", {"name": part.title, "id": ident})
            held = section.makeelement(f"{{{_P14}}}sldIdLst", {})
            held.extend([held.makeelement(f"{{{_P14}}}sldId", {"id": str(slide)}) for slide in slides])
            section.append(held)
            sections_list.append(section)
        presentation = self._file.part._element  # noqa: SLF001 - sections have no interface in python-pptx
        for old in presentation.findall(f"{{{_PML}}}extLst"):
            presentation.remove(old)
        presentation.append(listed)

    def describe(self, course: Course, *, title: str) -> None:
        """The properties of the file; times are the course's, not the clock's."""
        made = course.generated_at
        made = made if made.tzinfo is None else made.astimezone(UTC).replace(tzinfo=None)
        facts = self._file.core_properties
        facts.title, facts.subject = title[:_LONGEST_PROPERTY], one_line(course.topic)[:_LONGEST_PROPERTY]
        facts.author = facts.last_modified_by = "Longhaul"
        facts.created = facts.modified = facts.last_printed = datetime.fromisoformat(made.isoformat(timespec="seconds"))
        facts.language, facts.identifier, facts.revision = self._language, str(course.id), 1

    def saved(self) -> bytes:
        """The bytes of the file, the same for the same slides."""
        return packed(package_files(self._file))

    def _add(self, slide: Slide) -> int:
        if slide.layout not in self._layouts:  # as it is in the template, unless there is a figure
            self._layouts[slide.layout] = self._file.slide_layouts[_FIGURE_LAYOUT]
            _arrange(self._layouts[slide.layout], slide.layout)
        layout = self._layouts[slide.layout]
        made, ident = self._copier.add(layout)
        size = next(size for most, size in _TITLE_SIZES[slide.layout] if len(slide.title) <= most)
        self._write(made.shapes.title.text_frame, [slide.title], size=size)
        if slide.layout != "figure":
            self._write(made.placeholders[1].text_frame, slide.lines, size=None)
        if slide.figure is not None:
            self._draw(made, slide.figure, below=slide.lines)
        if slide.notes:
            self._write(self._copier.notes(made), slide.notes, size=None)
        return ident

    def _draw(self, made: Any, figure: Figure, *, below: Sequence[str]) -> None:
        """The figure as a table, under lines in the body or instead of them."""
        top, height = map(int, _FRAMES["content"][1])
        if below:
            used = round(sum(len(wrapped(line)) + GAP_LINES for line in below) * _LINE_HEIGHT)
            body = made.placeholders[1]
            body.left, body.width, body.top, body.height = _LEFT, _ACROSS, top, used
            top, height = top + used, height - used
        frame = made.shapes.add_table(
            len(figure.rows), len(figure.widths), _LEFT + _INSET, top, _ACROSS - 2 * _INSET, height
        )
        frame.name = figure.caption[:_LONGEST_PROPERTY]
        frame._element.nvGraphicFramePr.cNvPr.set("descr", figure.caption)  # noqa: SLF001 - for screen readers
        table = frame.table
        table._tbl.tblPr.find(f"{{{_DML}}}tableStyleId").text = _PLAIN_TABLE  # noqa: SLF001 - no interface
        for column, share in zip(table.columns, figure.widths, strict=True):
            column.width = round((_ACROSS - 2 * _INSET) * share)
        for number, (row, lines) in enumerate(zip(table.rows, figure.heights, strict=True)):
            row.height = round(lines * _LINE_HEIGHT)
            for cell, text in zip(row.cells, figure.rows[number], strict=True):
                self._fill(cell, text, number)
        frame.height = sum(row.height for row in table.rows)

    def _fill(self, cell: Any, text: str, row: int) -> None:
        self._write(cell.text_frame, [text], size=_CELL_SIZE)
        (run,) = cell.text_frame.paragraphs[0].runs
        run.font.bold = row == 0
        run.font.color.rgb = _color(_PAPER if row == 0 else _INK)
        cell.fill.solid()
        cell.fill.fore_color.rgb = _color(_ACCENT if row == 0 else _BAND if row % 2 == 0 else _PAPER)
        cell.vertical_anchor = MSO_ANCHOR.MIDDLE

    def _write(self, frame: Any, lines: Sequence[str], *, size: Any) -> None:
        for number, line in enumerate(lines):
            paragraph = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
            run = paragraph.add_run()
            run.text = line
            run._r.get_or_add_rPr().set("lang", self._language)  # noqa: SLF001 - python-pptx knows a few languages only
            if size is not None:
                run.font.size = size
            if self._right_to_left:
                properties = paragraph._p.get_or_add_pPr()  # noqa: SLF001 - python-pptx knows one direction
                properties.set("rtl", "1")
                properties.set("algn", "r")

    def _drop_thumbnail(self) -> None:
        """The template's picture of itself."""
        package = self._file.part.package
        for name, relation in list(package._rels.items()):  # noqa: SLF001 - a package lists its relations nowhere else
            if relation.reltype == RELATIONSHIP_TYPE.THUMBNAIL:
                package.drop_rel(name)

    def _widen_master(self) -> None:
        scale = _WIDTH / Inches(10)
        master = self._file.slide_master
        for place in (master, *self._file.slide_layouts):
            for shape in place.placeholders:
                if shape._element.spPr.xfrm is not None:  # noqa: SLF001 - others inherit their place
                    shape.left, shape.width = round(shape.left * scale), round(shape.width * scale)


def _color(digits: str) -> RGBColor:
    return RGBColor(*bytes.fromhex(digits))  # type: ignore[no-untyped-call] # python-pptx types only its arguments


def _arrange(layout: Any, name: str) -> None:
    """Put the title and the body of a layout where texts are measured to fit, in our colours and sizes."""
    shapes = {shape.placeholder_format.idx: shape for shape in layout.placeholders}
    for index, (top, height) in enumerate(_FRAMES[name]):
        shape = shapes[index]
        shape.left, shape.width, shape.top, shape.height = _LEFT, _ACROSS, top, height
    inside = name in {"content", "figure"}
    _style(shapes[0].text_frame, size=_TITLE_SIZES[name][0][1], color=_INK if inside else _ACCENT, bold=True)
    shapes[0].text_frame.vertical_anchor = MSO_ANCHOR.MIDDLE if inside else MSO_ANCHOR.BOTTOM
    if name != "figure":
        _style(shapes[1].text_frame, size=_BODY_SIZE, color=_INK if inside else _MUTED, bold=False, listed=inside)
        shapes[1].text_frame.vertical_anchor = MSO_ANCHOR.TOP


def _style(frame: Any, *, size: Any, color: str, bold: bool, listed: bool = False) -> None:
    """The style of every first-level paragraph on slides of this layout."""
    frame.auto_size = MSO_AUTO_SIZE.NONE
    body = frame._txBody  # noqa: SLF001 - list styles have no interface in python-pptx
    style = body.find("{http://schemas.openxmlformats.org/drawingml/2006/main}lstStyle")
    for old in list(style):
        style.remove(old)
    indent, bullet = (' marL="285750" indent="-285750"', "") if listed else (' marL="0" indent="0"', "<a:buNone/>")
    level = parse_xml(
        f'<a:lvl1pPr xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" algn="l"{indent}>'
        f'<a:spcBef><a:spcPts val="{round(_GAP.pt * 100)}"/></a:spcBef>{bullet}'
        f'<a:defRPr sz="{round(size.pt * 100)}" b="{int(bold)}" cap="none"><a:solidFill><a:srgbClr val="{color}"/>'
        "</a:solidFill></a:defRPr></a:lvl1pPr>"
    )
    style.append(level)
