"""Content-Disposition: the name of an uploaded file, and the name a downloaded one is given."""

import re
import unicodedata
from email.message import Message
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

_LONGEST: Final = 200
_DEFAULT: Final = "upload"
_UNSAFE_ASCII: Final = re.compile(r"[^A-Za-z0-9 ._()+,=@-]")


def uploaded_name(header: str | None) -> str:
    """The file name in a Content-Disposition header (RFC 6266), made harmless; a default where there is none."""
    if header is None:
        return _DEFAULT
    # Headers arrive as latin-1; many clients send UTF-8 in them all the same.
    try:
        header = header.encode("latin-1").decode()
    except UnicodeError:
        pass
    message = Message()
    message["content-disposition"] = re.sub(r"[\r\n]", " ", header)
    try:
        name = message.get_filename()
    except (UnicodeError, LookupError, ValueError):
        name = None
    return harmless(name or "") or _DEFAULT


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
