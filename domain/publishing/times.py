"""Local times of people, made into moments; what a clock change makes impossible or ambiguous is refused."""

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DELETION_LIMIT: Final = timedelta(hours=48)
"""After this Telegram lets no bot delete a message."""

REMOVE_BY: Final = timedelta(hours=47, minutes=30)
"""How long after publishing a post is removed at the latest."""

LEAD: Final = timedelta(milliseconds=250)
"""How long before its time an order is handed to its sender, who is there then when the time comes."""


class UnknownZone(ValueError):
    """There is no time zone of that name."""


class ImpossibleTime(ValueError):
    """The clock skips this local time."""


class AmbiguousTime(ValueError):
    """The clock shows this local time twice; ``fold`` has to say which is meant."""


def zone_of(name: str) -> ZoneInfo:
    """The IANA time zone of that name. Raises UnknownZone."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UnknownZone("is not the name of an IANA time zone") from None


def resolve_local(local: datetime, zone: str, *, fold: int | None = None) -> datetime:
    """The moment, in UTC, at which clocks in ``zone`` show ``local``.

    ``fold`` 0 means the first of two such moments, 1 the second. Raises UnknownZone, ImpossibleTime and AmbiguousTime.
    """
    there = zone_of(zone)
    first, second = (local.replace(tzinfo=there, fold=which) for which in (0, 1))
    moments = [one.astimezone(UTC) for one in (first, second)]
    real = [moment for moment in moments if moment.astimezone(there).replace(tzinfo=None, fold=0) == local]
    if not real:
        raise ImpossibleTime(f"does not exist in {zone}: the clocks go forward over it")
    if moments[0] == moments[1]:
        return moments[0]
    if fold is None:
        raise AmbiguousTime(f"happens twice in {zone}, as the clocks go back; fold 0 is the first, 1 the second")
    return moments[fold]
