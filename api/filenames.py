"""Content-Disposition: the name of an uploaded file, and the name a downloaded one is given."""

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote, unquote_to_bytes

_LONGEST: Final = 200
_DEFAULT: Final = "upload"
# RFC 5987's form wins over the plain one, which may be quoted or, leniently, bare.
_EXTENDED: Final = re.compile(r"(?i)[;\s]filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^\s;]*)")
_QUOTED: Final = re.compile(r'(?i)[;\s]filename\s*=\s*"((?:[^"\\]|\\.)*)"')
_TOKEN: Final = re.compile(r'(?i)[;\s]filename\s*=\s*([^\s;"]+)')
_UNSAFE_ASCII: Final = re.compile(r"[^A-Za-z0-9 ._()+,=@-]")


def uploaded_name(header: str | None) -> str:
    """The file name in a Content-Disposition header (RFC 6266), made harmless; a default where there is none."""
    if header is None:
        return _DEFAULT
    extended = _EXTENDED.search(header)
    plain = _QUOTED.search(header) or _TOKEN.search(header)
    name = _decoded(extended.group(2), extended.group(1)) if extended else None
    if name is None and plain is not None:
        # Headers arrive as latin-1; many clients send UTF-8 in them all the same.
        name = _as_utf8(re.sub(r"\\(.)", r"\1", plain.group(1)))
    return harmless(name or "") or _DEFAULT


def _decoded(encoded: str, charset: str) -> str | None:
    try:
        return unquote_to_bytes(encoded).decode(charset)
    except (UnicodeError, LookupError):
        return None


def _as_utf8(text: str) -> str:
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def harmless(name: str) -> str:
    """The last part of a path without control characters, marks that reverse text, and dots or spaces around it."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(char for char in unicodedata.normalize("NFC", last) if unicodedata.category(char)[0] != "C")
    return shown.strip(" .")[:_LONGEST].strip(" .")


def attachment(name: str) -> str:
    """The Content-Disposition of a download, with a plain and an extended file name."""
    last = PurePosixPath(name).name or _DEFAULT
    plain = _UNSAFE_ASCII.sub("_", last)
    if plain == last:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(last, safe='')}"
