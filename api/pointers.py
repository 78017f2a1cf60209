"""How the place of a fault outside the body is written."""


def query_pointer(where: str, *names: str) -> str:
    """``/query/limit``, ``/header/last-event-id``: the part of the request, then the name in it."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in (where, *names))
