"""Schedules: when a job of some kind starts by itself. The rules only; keeping time is Temporal's business.

A spec is the union of its cron expressions, intervals and calendars, less what it skips, in one IANA time zone. Times
that a change of the clocks leaves out do not happen on that day; times that it repeats happen once.
"""

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, NamedTuple, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    model_validator,
)

from domain.jobs import GivenLabels, JobStatus
from domain.model import Frozen
from domain.text import Line

SCHEDULE_LABEL: Final = "longhaul.schedule"
"""The label of a job that names the schedule it came from."""
RUN_LABEL: Final = "longhaul.run"
"""The label of a job that names the workflow of its schedule's run; a time that is run again has the same once more."""
EXECUTION_LABEL: Final = "longhaul.execution"
"""The label of a job that names the execution of that workflow; no two jobs have the same."""
TIME_LABEL: Final = "longhaul.scheduled_at"
"""The label of a job that tells for which time it was scheduled."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SHORT: Final = re.compile(r"([0-9]{1,9})\s*([smhdw])")
_ISO: Final = re.compile(
    r"P(?:([0-9]{1,9})W)?(?:([0-9]{1,9})D)?(?:T(?:([0-9]{1,9})H)?(?:([0-9]{1,9})M)?(?:([0-9]{1,9})S)?)?"
)
_LONGEST: Final = timedelta(days=3_660)


class Overlap(StrEnum):
    """What happens at a scheduled time while the run before is still in progress."""

    SKIP = "skip"  # leave this time out
    BUFFER_ONE = "buffer_one"  # run once more when it is done, however many times came by
    BUFFER_ALL = "buffer_all"  # run once more for each
    CANCEL_OTHER = "cancel_other"  # cancel it, and run when it has ended
    ALLOW_ALL = "allow_all"  # run side by side


# --- values -----------------------------------------------------------------------------------------


def parse_duration(value: Any) -> timedelta:
    """A length of time: seconds as a number, ``90s`` ``15m`` ``1h`` ``2d`` ``1w``, or ISO 8601 (``PT1H30M``).

    Raises ValueError.
    """
    if isinstance(value, timedelta):
        found = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = _seconds(value)
    elif isinstance(value, str):
        found = _parse_text(value.strip())
    else:
        raise ValueError(_NOT_A_DURATION)  # noqa: TRY004 - pydantic turns ValueError into a fault of the field
    if not timedelta(0) <= found <= _LONGEST or found.microseconds:
        raise ValueError("must be between nothing and ten years, in whole seconds")
    return found


_NOT_A_DURATION: Final = 'is no length of time: give seconds, "90s", "15m", "1h", "2d", "1w" or ISO 8601 ("PT1H")'


def _seconds(value: float) -> timedelta:
    try:
        return timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise ValueError("is too long") from None


def _parse_text(text: str) -> timedelta:
    short = _SHORT.fullmatch(text.lower())
    if short is not None:
        return _seconds(int(short.group(1)) * _UNITS[short.group(2)])
    iso = _ISO.fullmatch(text.upper())
    if iso is None or not any(iso.groups()):
        raise ValueError(_NOT_A_DURATION)
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in iso.groups())
    return _seconds((weeks * 7 + days) * 86_400 + hours * 3_600 + minutes * 60 + seconds)


def format_duration(value: timedelta) -> str:
    """A length of time in whole seconds as ISO 8601: ``PT1H``, ``P1DT12H``."""
    rest = int(value.total_seconds())
    days, rest = divmod(rest, 86_400)
    parts = [(rest // 3_600, "H"), (rest % 3_600 // 60, "M"), (rest % 60, "S")]
    time = "".join(f"{number}{unit}" for number, unit in parts if number)
    if not days and not time:
        return "PT0S"
    return (f"P{days}D" if days else "P") + (f"T{time}" if time else "")


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
"""A length of time in whole seconds, written as ISO 8601."""


def check_time_zone(name: str) -> str:
    """Return ``name``; raise ValueError unless it is an IANA time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError('is not an IANA time zone such as "Europe/Berlin"') from None
    return name


TimeZone = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(check_time_zone)]


# --- cron -------------------------------------------------------------------------------------------


class _CronField(NamedTuple):
    """One field of a cron expression; ``names`` stand for numbers from ``first`` on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first: int = 0


_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final = (
    _CronField("minute", 0, 59),
    _CronField("hour", 0, 23),
    _CronField("day of month", 1, 31),
    _CronField("month", 1, 12, _MONTHS, 1),
    _CronField("day of week", 0, 7, _DAYS, 0),
)
_SHORTHANDS: Final = frozenset({"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"})
_DAY_OF_MONTH: Final = 2
_DAY_OF_WEEK: Final = 4


def check_cron(expression: str) -> str:
    """Return the expression with single spaces; raise ValueError, naming the field, unless it is cron.

    Five fields (minute, hour, day of month, month, day of week) with numbers, names, ranges, lists and steps, or one
    of ``@hourly`` and its kin. Restricting both the day of the month and the day of the week is refused: some crons
    take it to mean "or", others "and".
    """
    words = expression.split()
    if len(words) == 1 and words[0].lower() in _SHORTHANDS:
        return words[0].lower()
    if len(words) != len(_FIELDS):
        raise ValueError("must have five fields: minute, hour, day of month, month, day of week")
    for word, field in zip(words, _FIELDS, strict=True):
        for item in word.split(","):
            _check_item(item.lower(), field)
    if words[_DAY_OF_MONTH] not in {"*", "?"} and words[_DAY_OF_WEEK] not in {"*", "?"}:
        raise ValueError("may restrict the day of the month or the day of the week, not both; use calendar for that")
    return " ".join(words)


def _check_item(item: str, field: _CronField) -> None:
    span, slash, step = item.partition("/")
    if slash and not (_is_number(step) and 1 <= int(step) <= field.high):
        raise ValueError(f"{field.name}: the step must be a number from 1 to {field.high}")
    if span in {"*", "?"}:
        return
    start, dash, end = span.partition("-")
    numbers = [_cron_number(part, field) for part in ([start, end] if dash else [start])]
    if numbers[0] > numbers[-1]:
        raise ValueError(f"{field.name}: a range must not run backwards")


def _is_number(text: str) -> bool:
    # Digits of other scripts are decimal to Python, and nothing to a cron.
    return text.isascii() and text.isdecimal()


def _cron_number(text: str, field: _CronField) -> int:
    named = text in field.names
    number = field.names.index(text) + field.first if named else int(text) if _is_number(text) else -1
    if not field.low <= number <= field.high:
        raise ValueError(f"{field.name}: must be between {field.low} and {field.high}")
    return number


Cron = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(check_cron)]


# --- specs ------------------------------------------------------------------------------------------


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict | str | int | float | timedelta) else value


def _as_interval(value: Any) -> Any:
    return {"every": value} if isinstance(value, int | float | str | timedelta) else value


class Interval(Frozen):
    """Every so often, counted from the epoch plus ``offset``, whatever the clocks do."""

    every: Annotated[Duration, Field(ge=timedelta(seconds=1))]
    offset: Duration = timedelta(0)

    @model_validator(mode="after")
    def _offset_within(self) -> "Interval":
        if self.offset >= self.every:
            raise ValueError("offset must be shorter than every")
        return self


class Span(Frozen):
    """Numbers from ``start`` to ``end``, every ``step``-th."""

    start: int
    end: int
    step: Annotated[int, Field(ge=1)] = 1


def _parser(low: int, high: int) -> BeforeValidator:
    """Numbers of a calendar field: 3, "1-5", "*/15", "1,15", or a list of such."""

    def parse(value: Any) -> Any:
        spans: list[Any] = []
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, dict | Span):
                spans.append(item)
            elif isinstance(item, int) and not isinstance(item, bool):
                spans.append({"start": item, "end": item})
            elif isinstance(item, str):
                spans += [_parse_span(part.strip(), low, high) for part in item.split(",")]
            else:
                raise ValueError(f"must be numbers between {low} and {high}")  # noqa: TRY004 - as above
        return spans

    return BeforeValidator(parse)


def _checker(low: int, high: int) -> AfterValidator:
    def check(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        if any(not low <= span.start <= span.end <= high for span in spans):
            raise ValueError(f"must be numbers between {low} and {high}")
        return spans

    return AfterValidator(check)


_SPAN: Final = re.compile(r"(\*|[0-9]{1,4})(?:-([0-9]{1,4}))?(?:/([0-9]{1,4}))?")


def _parse_span(text: str, low: int, high: int) -> dict[str, int]:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f'"{text[:20]}" is no number, range or step')
    start, end, step = found.groups()
    if start == "*":
        return {"start": low, "end": high, "step": int(step or 1)}
    return {"start": int(start), "end": int(end or (high if step else start)), "step": int(step or 1)}


_Spans = Annotated[tuple[Span, ...], Field(max_length=60)]
_Sixty = Annotated[_Spans, _parser(0, 59), _checker(0, 59)]
_Hours = Annotated[_Spans, _parser(0, 23), _checker(0, 23)]
_MonthDays = Annotated[_Spans, _parser(1, 31), _checker(1, 31)]
_MonthNumbers = Annotated[_Spans, _parser(1, 12), _checker(1, 12)]
_Years = Annotated[_Spans, _parser(2_000, 2_999), _checker(2_000, 2_999)]
_WeekDays = Annotated[_Spans, _parser(0, 6), _checker(0, 6)]
_ZERO: Final = (Span(start=0, end=0),)


class Calendar(Frozen):
    """Times whose every part is among the given numbers. Sunday is 0."""

    second: _Sixty = _ZERO
    minute: _Sixty = _ZERO
    hour: _Hours = _ZERO
    day_of_month: _MonthDays = (Span(start=1, end=31),)
    month: _MonthNumbers = (Span(start=1, end=12),)
    year: _Years = ()
    day_of_week: _WeekDays = (Span(start=0, end=6),)


class ScheduleSpec(Frozen):
    """When a schedule fires."""

    cron: Annotated[tuple[Cron, ...], BeforeValidator(_as_list), Field(max_length=20)] = ()
    interval: Annotated[
        tuple[Annotated[Interval, BeforeValidator(_as_interval)], ...], BeforeValidator(_as_list), Field(max_length=20)
    ] = ()
    calendar: Annotated[tuple[Calendar, ...], BeforeValidator(_as_list), Field(max_length=20)] = ()
    skip: Annotated[tuple[Calendar, ...], BeforeValidator(_as_list), Field(max_length=20)] = ()
    time_zone: TimeZone = "UTC"
    jitter: Annotated[Duration, Field(le=timedelta(days=1))] = timedelta(0)
    start_at: AwareDatetime | None = None
    end_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _fires(self) -> "ScheduleSpec":
        if not (self.cron or self.interval or self.calendar):
            raise ValueError("needs cron, interval or calendar")
        if self.start_at is not None and self.end_at is not None and self.start_at >= self.end_at:
            raise ValueError("end_at must be later than start_at")
        return self


ScheduleLabels = Annotated[GivenLabels, Field(max_length=16)]


class ScheduleWish(Frozen):
    """A schedule as somebody wants it. What ``input`` may hold is decided by the kind."""

    kind: Annotated[str, StringConstraints(max_length=100)]
    input: dict[str, Any] = Field(default_factory=dict)
    spec: ScheduleSpec
    name: Annotated[Line, Field(max_length=200)] | None = None
    overlap: Overlap = Overlap.SKIP
    catchup_window: Annotated[Duration, Field(ge=timedelta(seconds=10))] = timedelta(hours=1)
    pause_on_failure: bool = False
    paused: bool = False
    priority: Annotated[int, Field(ge=1, le=5, strict=True)] = 3
    labels: ScheduleLabels = Field(default_factory=dict)


class ScheduleChange(Frozen):
    """What of a schedule is to be different; what is not named stays."""

    input: dict[str, Any] | None = None
    spec: ScheduleSpec | None = None
    name: Annotated[Line, Field(max_length=200)] | None = None
    overlap: Overlap | None = None
    catchup_window: Annotated[Duration, Field(ge=timedelta(seconds=10))] | None = None
    pause_on_failure: bool | None = None
    priority: Annotated[int, Field(ge=1, le=5, strict=True)] | None = None
    labels: ScheduleLabels | None = None


class Backfill(Frozen):
    """Run for the times that lie between two moments, as if they came by now."""

    start_at: AwareDatetime
    end_at: AwareDatetime
    overlap: Overlap | None = None

    @model_validator(mode="after")
    def _forward(self) -> "Backfill":
        if self.start_at >= self.end_at:
            raise ValueError("end_at must be later than start_at")
        if self.end_at - self.start_at > _LONGEST:
            raise ValueError("is longer than ten years")
        return self


# --- runs -------------------------------------------------------------------------------------------


class ScheduleRef(Frozen):
    """All that the run of a schedule is told; everything else is read when it begins."""

    tenant_id: UUID
    schedule_id: UUID


class ScheduledRun(Frozen):
    """One firing of a schedule. ``run`` is its workflow's id, which tells the time and is the same for a backfill.

    ``execution`` is the first run id of the workflow: no other firing has it, and a part that continues as new does.
    """

    schedule: ScheduleRef
    run: str
    execution: str
    scheduled_at: datetime


class StartedRun(Frozen):
    """The job that a run has started; None where the schedule is gone."""

    job_id: UUID | None
    kind: str = ""


class RunOutcome(Frozen):
    """How the job of a run stands."""

    status: JobStatus
    error_code: str | None = None


class ScheduledJobs(Protocol):
    """Starts and cancels the jobs of schedules: the same way that requests do."""

    async def start(self, run: ScheduledRun) -> StartedRun:
        """The job of this run, started unless it was before. Raises InvalidInput where the kind refuses by now."""
        ...

    async def cancel(self, tenant_id: UUID, job_id: UUID) -> None:
        """Cancel a job; one that is finished stays as it is."""
        ...
