"""JSON bodies, read more strictly than a framework would: no repeated names, no text that cannot be stored."""

from itertools import chain, islice
from typing import Any, Final

from fastapi import Request

from domain.errors import FieldFault, InvalidInput, MalformedBody, UnsupportedMediaType
from domain.structured import parse_document, text_faults

MOST_LEVELS: Final = 100
_MOST_FAULTS: Final = 50


class StrictRequest(Request):
    """A request whose JSON is refused where it is ambiguous, too deep, or holds text that cannot be stored."""

    async def json(self) -> Any:
        """The body as JSON. Raises MalformedBody and InvalidInput."""
        if not hasattr(self, "_strict"):
            self._strict = parse_body(await self.body())
        return self._strict


def parse_body(body: bytes) -> Any:
    """Read a JSON body. Raises MalformedBody, and InvalidInput naming each text that cannot be stored."""
    try:
        data = parse_document(body.decode())
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    except RecursionError:
        # The parser gives up by itself after a thousand levels, long before a deep document costs anything.
        raise MalformedBody(_TOO_DEEP) from None
    except ValueError as fault:
        raise MalformedBody(f"the body {fault}") from None
    if _deeper_than(MOST_LEVELS, data):
        raise MalformedBody(_TOO_DEEP)
    faults = [FieldFault(where, message) for where, message in islice(text_faults(data, ""), _MOST_FAULTS)]
    if faults:
        raise InvalidInput("the body holds text that cannot be stored", faults=faults)
    return data


_TOO_DEEP: Final = f"the body is nested more than {MOST_LEVELS} levels deep"


def _deeper_than(most: int, data: Any) -> bool:
    level = [data] if isinstance(data, dict | list) else []
    for _ in range(most):
        if not level:
            return False
        children = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
        level = [child for child in children if isinstance(child, dict | list)]
    return bool(level)


def require_json(request: Request) -> None:
    """Raise UnsupportedMediaType where there is a body that does not say it is JSON."""
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    main, _, sub = media_type.strip().lower().partition("/")
    if main != "application" or not (sub == "json" or sub.endswith("+json")):
        raise UnsupportedMediaType("the body must be application/json")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if charset not in {"", "utf-8", "utf8"}:
        raise UnsupportedMediaType("the body must be UTF-8")
