"""What python-pptx takes long for, done faster with its own parts; the bytes are the same.

For each slide that it adds it looks through all that are there: at relationships, ids and names. For a course of a
hundred lessons that took longer than all other exports together, so what it has made once is copied here.
"""

import itertools
from copy import deepcopy
from typing import Any, Final

from pptx.opc.constants import CONTENT_TYPE, RELATIONSHIP_TYPE
from pptx.opc.packuri import PackURI
from pptx.opc.serialized import PackageWriter
from pptx.parts.slide import NotesSlidePart, SlidePart
from pptx.text.text import TextFrame

_DML: Final = "http://schemas.openxmlformats.org/drawingml/2006/main"
_PML: Final = "http://schemas.openxmlformats.org/presentationml/2006/main"
_SHAPES: Final = f"{{{_PML}}}cSld/{{{_PML}}}spTree/{{{_PML}}}sp"
_PLACEHOLDER: Final = f"{{{_PML}}}nvSpPr/{{{_PML}}}nvPr/{{{_PML}}}ph"


class SlideCopier:
    """Adds slides to a presentation of python-pptx, to which nobody else adds any meanwhile."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._part = file.part
        self._blank: dict[str, Any] = {}
        self._blank_notes: Any = None
        self._numbers = itertools.count(1)

    def add(self, layout: Any) -> tuple[Any, int]:
        """A new slide with the placeholders of a layout, and its id in the presentation."""
        if layout.name not in self._blank:
            slide = self._file.slides.add_slide(layout)
            self._blank[layout.name] = deepcopy(slide.element)
            return slide, int(self._slide_ids[-1].id)
        part = SlidePart(
            PackURI(f"/ppt/slides/slide{len(self._slide_ids) + 1}.xml"), CONTENT_TYPE.PML_SLIDE, self._part.package,
            deepcopy(self._blank[layout.name]),
        )  # fmt: skip
        part.relate_to(layout.part, RELATIONSHIP_TYPE.SLIDE_LAYOUT)
        # Not by `relate_to`, which first looks whether the two are related already.
        relation = self._part.rels._add_relationship(RELATIONSHIP_TYPE.SLIDE, part)  # noqa: SLF001
        ident = int(self._slide_ids[-1].id) + 1
        self._slide_ids._add_sldId(id=ident, rId=relation)  # noqa: SLF001 - `add_sldId` reads all ids
        return part.slide, ident

    def notes(self, slide: Any) -> Any:
        """The frame for the text of new notes of a slide."""
        name = PackURI(f"/ppt/notesSlides/notesSlide{next(self._numbers)}.xml")
        if self._blank_notes is None:
            notes = slide.notes_slide
            self._blank_notes = deepcopy(notes.element)
            return notes.notes_text_frame
        part = NotesSlidePart(
            name, CONTENT_TYPE.PML_NOTES_SLIDE, self._part.package, deepcopy(self._blank_notes)
        )  # fmt: skip
        part.relate_to(self._part.notes_master_part, RELATIONSHIP_TYPE.NOTES_MASTER)
        part.relate_to(slide.part, RELATIONSHIP_TYPE.SLIDE)
        slide.part.relate_to(part, RELATIONSHIP_TYPE.NOTES_SLIDE)
        return frame_of(part, "body")

    @property
    def _slide_ids(self) -> Any:
        return self._part._element.sldIdLst  # noqa: SLF001 - a presentation shows it nowhere else


class _Collected(dict[str, bytes]):
    """The files of a package, where python-pptx would write them into an archive."""

    def write(self, uri: PackURI, blob: bytes) -> None:
        self[uri.membername] = blob


def package_files(file: Any) -> dict[str, bytes]:
    """The files that a presentation consists of, by name."""
    package = file.part.package
    writer, files = PackageWriter("", package._rels, tuple(package.iter_parts())), _Collected()  # noqa: SLF001
    for write in (writer._write_content_types_stream, writer._write_pkg_rels, writer._write_parts):  # noqa: SLF001
        write(files)  # type: ignore[arg-type] # it asks for no more than `write`
    return files


def frame_of(part: Any, kind: str) -> Any:
    """The text frame of the first placeholder of a kind (``title``, ``body``, ``subTitle`` ...) or index."""
    for shape in part._element.iterfind(_SHAPES):  # noqa: SLF001 - python-pptx makes an object of every shape to ask it
        place = shape.find(_PLACEHOLDER)
        if place is not None and kind in {place.get("type"), place.get("idx")}:
            nobody: Any = None  # who would be asked for relationships, of which texts of ours have none
            return TextFrame(shape.get_or_add_txBody(), nobody)
    raise KeyError(kind)
