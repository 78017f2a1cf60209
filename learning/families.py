"""The model families by name; each is imported when it is first asked for, as some need the extra ``federated``."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

from learning.family import Family


class UnknownFamily(KeyError):
    """There is no family of this name."""


class NoRuntime(RuntimeError):
    """The family needs the extra ``federated``, which is not installed here."""


def _digits() -> Family:
    from learning.digits.family import DigitsFamily  # noqa: PLC0415 - see the head of this module

    return DigitsFamily()


def _swipe() -> Family:
    from learning.swipe.family import SwipeFamily  # noqa: PLC0415 - torch is here only with the extra

    return SwipeFamily()


FAMILIES: Final[Mapping[str, Callable[[], Family]]] = {"digits": _digits, "swipe": _swipe}
"""All there are. An own one is a line here; see docs/federated-models.md."""


@cache
def get_family(name: str) -> Family:
    """The family ``name``. Raises :class:`UnknownFamily`, or :class:`NoRuntime` without what it needs."""
    if name not in FAMILIES:
        raise UnknownFamily(name)
    try:
        return FAMILIES[name]()
    except ModuleNotFoundError as missing:
        raise NoRuntime(f"the family {name} needs {missing.name}: install the extra 'federated'") from missing
