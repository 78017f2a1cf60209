"""What a post holds, and how long it may be: lengths in UTF-16 units after entities are parsed, as Telegram counts."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints

from domain.errors import FieldFault
from domain.model import Frozen
from domain.text import Prose

MOST_TEXT_UNITS: Final = 4_096
MOST_CAPTION_UNITS: Final = 1_024
MOST_ALBUM_ITEMS: Final = 10
MOST_ENTITIES: Final = 100

_LONGEST_RAW_CHARS: Final = 32_768

EntityType = Literal[
    "bold", "italic", "underline", "strikethrough", "spoiler", "code", "pre", "blockquote", "text_link"
]

_TAGS: Final[dict[str, EntityType]] = {
    "b": "bold", "strong": "bold", "i": "italic", "em": "italic", "u": "underline", "ins": "underline",
    "s": "strikethrough", "strike": "strikethrough", "del": "strikethrough", "tg-spoiler": "spoiler", "code": "code",
    "pre": "pre", "blockquote": "blockquote", "a": "text_link",
}  # fmt: skip

_LONGEST_URL_CHARS: Final = 2_000

Url = Annotated[str, StringConstraints(max_length=_LONGEST_URL_CHARS, pattern=r"^https?://[^\s]+$")]


class Entity(Frozen):
    """Formatting of a part of a text; ``offset`` and ``length`` are in UTF-16 units."""

    type: EntityType
    offset: Annotated[int, Field(ge=0)]
    length: Annotated[int, Field(ge=1)]
    url: Url | None = None


class MediaItem(Frozen):
    """A picture, film or file that the channel's system fetches by itself from ``url``."""

    type: Literal["photo", "video", "document"] = "photo"
    url: Url


class Button(Frozen):
    """A link below a post."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    url: Url


class PostContent(Frozen):
    """A post as it is ordered. ``format`` says how ``text`` is to be read; entities go with plain text only."""

    text: Annotated[Prose, Field(max_length=_LONGEST_RAW_CHARS)] | None = None
    format: Literal["plain", "html"] = "plain"
    entities: tuple[Entity, ...] = ()
    media: tuple[MediaItem, ...] = ()
    buttons: Annotated[tuple[Button, ...], Field(max_length=8)] = ()

    @property
    def messages(self) -> int:
        """How many messages the channel is going to show: one, or one for each item of an album."""
        return max(len(self.media), 1)


class Rendered(Frozen):
    """A post as it is sent: plain text and entities, so that what was checked is what goes out."""

    text: str
    entities: tuple[Entity, ...] = ()
    media: tuple[MediaItem, ...] = ()
    buttons: tuple[Button, ...] = ()

    @property
    def sha256(self) -> str:
        """The identity of the content: two posts with the same one cannot be told apart by a reader."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @property
    def messages(self) -> int:
        """How many messages the channel is going to show: one, or one for each item of an album."""
        return max(len(self.media), 1)

    def links(self) -> list[str]:
        """Every address that a reader can follow."""
        return [*(entity.url for entity in self.entities if entity.url), *(button.url for button in self.buttons)]


class BrokenMarkup(ValueError):
    """The text is not what its format promises; the message says where."""


def utf16_units(text: str) -> int:
    """The length of a text as Telegram counts it."""
    return len(text.encode("utf-16-le")) // 2


def render(content: PostContent) -> Rendered:
    """The content as it is sent. Raises BrokenMarkup."""
    text, entities = content.text or "", content.entities
    if content.format == "html":
        text, entities = parse_html(text)
    return Rendered(
        text=text.strip(),
        entities=tuple(sorted(_trimmed(text, entities), key=lambda one: (one.offset, -one.length, one.type))),
        media=content.media,
        buttons=content.buttons,
    )


def _trimmed(text: str, entities: Sequence[Entity]) -> Iterator[Entity]:
    """The entities as they lie in the text without the space around it, which no channel shows."""
    before = utf16_units(text) - utf16_units(text.lstrip())
    units = utf16_units(text.strip())
    for entity in entities:
        start = min(max(entity.offset - before, 0), units)
        end = min(max(entity.offset + entity.length - before, 0), units)
        if end > start:
            yield entity.model_copy(update={"offset": start, "length": end - start})


def content_faults(content: PostContent, below: str = "/content") -> list[FieldFault]:
    """Everything that the channel's system would refuse, each named by its JSON pointer."""
    return list(_faults(content, below))


def _faults(content: PostContent, below: str) -> Iterator[FieldFault]:
    try:
        rendered = render(content)
    except BrokenMarkup as fault:
        yield FieldFault(f"{below}/text", str(fault))
        return
    if not rendered.text and not content.media:
        yield FieldFault(f"{below}/text", "is empty, and there is no media")
    yield from _length_faults(rendered, below)
    yield from _media_faults(content, below)
    yield from _entity_faults(content, below)
    yield from _link_faults(content, below)


def _link_faults(content: PostContent, below: str) -> Iterator[FieldFault]:
    links: dict[str, Sequence[Button | MediaItem | Entity]]
    links = {"buttons": content.buttons, "media": content.media, "entities": content.entities}
    for name, holders in links.items():
        for index, holder in enumerate(holders):
            if holder.url is not None and not _is_link(holder.url):
                yield FieldFault(f"{below}/{name}/{index}/url", "is no http address with a host")


def _is_link(url: str) -> bool:
    """Whether an address can be read as one, and names a host."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - read for what it raises
    except ValueError:
        return False
    is_short = len(url) <= _LONGEST_URL_CHARS and not any(one.isspace() for one in url)
    return is_short and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _length_faults(rendered: Rendered, below: str) -> Iterator[FieldFault]:
    most, what = (MOST_CAPTION_UNITS, "a caption") if rendered.media else (MOST_TEXT_UNITS, "a text")
    units = utf16_units(rendered.text)
    if units > most:
        yield FieldFault(f"{below}/text", f"has {units} UTF-16 units after parsing; {what} may have {most}")
    if len(rendered.entities) > MOST_ENTITIES:
        yield FieldFault(f"{below}/entities", f"has more than {MOST_ENTITIES} entities")


def _media_faults(content: PostContent, below: str) -> Iterator[FieldFault]:
    if len(content.media) > MOST_ALBUM_ITEMS:
        yield FieldFault(f"{below}/media", f"an album has at most {MOST_ALBUM_ITEMS} items")
    if len(content.media) > 1:
        if content.buttons:
            yield FieldFault(f"{below}/buttons", "an album cannot have buttons")
        if len({item.type == "document" for item in content.media}) > 1:
            yield FieldFault(f"{below}/media", "documents cannot be mixed with pictures and films")


def _entity_faults(content: PostContent, below: str) -> Iterator[FieldFault]:
    if content.format == "html":
        if content.entities:
            yield FieldFault(f"{below}/entities", "go with plain text only")
        return
    units = utf16_units(content.text or "")
    for index, entity in enumerate(content.entities):
        if entity.offset + entity.length > units:
            yield FieldFault(f"{below}/entities/{index}", "reaches beyond the end of the text")
        elif _splits_a_pair(content.text or "", entity):
            yield FieldFault(f"{below}/entities/{index}", "cuts a character in two (offsets are UTF-16 units)")
        if (entity.type == "text_link") != (entity.url is not None):
            yield FieldFault(f"{below}/entities/{index}/url", "belongs to a text_link, and to nothing else")
    yield from _crossing(content.entities, below)


def _splits_a_pair(text: str, entity: Entity) -> bool:
    raw = text.encode("utf-16-le")
    for unit in (entity.offset, entity.offset + entity.length):
        low = raw[unit * 2 : unit * 2 + 2]
        if len(low) == 2 and 0xDC <= low[1] <= 0xDF:  # noqa: PLR2004 - the range of low surrogates
            return True
    return False


def _crossing(entities: Sequence[Entity], below: str) -> Iterator[FieldFault]:
    for index, later in enumerate(entities):
        for earlier in entities[:index]:
            first, second = sorted((earlier, later), key=lambda entity: (entity.offset, -entity.length))
            end = first.offset + first.length
            if second.offset < end < second.offset + second.length:
                yield FieldFault(f"{below}/entities/{index}", "crosses another entity; entities may only be nested")
                break


# --- HTML -------------------------------------------------------------------------------------------


def parse_html(text: str) -> tuple[str, tuple[Entity, ...]]:
    """Text and entities of the HTML that Telegram knows. Raises BrokenMarkup."""
    if text.rfind("<") > text.rfind(">"):
        raise BrokenMarkup("ends in the middle of a tag; a plain < is written &lt;")
    reader = _Reader()
    reader.feed(text)
    reader.close()
    reader.expect_closed()
    return reader.text, tuple(reader.entities)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.entities: list[Entity] = []
        self._open: list[tuple[str, int, str | None]] = []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            raise BrokenMarkup(f"contains the tag <{tag[:20]}>, which a post cannot have")
        url = dict(attrs).get("href")
        if tag == "a" and not _is_link(url or ""):
            raise BrokenMarkup("contains a link without an http address")
        self._open.append((tag, utf16_units(self.text), url if tag == "a" else None))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            raise BrokenMarkup(f"closes <{tag[:20]}> where it is not open")
        _, offset, url = self._open.pop()
        length = utf16_units(self.text) - offset
        if length:
            self.entities.append(Entity(type=_TAGS[tag], offset=offset, length=length, url=url))

    def expect_closed(self) -> None:
        if self._open:
            raise BrokenMarkup(f"leaves <{self._open[-1][0]}> open")
