from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from domain.schedules import (
    Calendar,
    ScheduleSpec,
    ScheduleWish,
    check_cron,
    format_duration,
    parse_duration,
)


class TestDurations:
    @pytest.mark.parametrize(
        ("given", "seconds"),
        [
            (90, 90), (1.0, 1), ("90s", 90), ("15m", 900), ("1h", 3_600), ("2d", 172_800), ("1w", 604_800),
            ("PT1H30M", 5_400), ("P1D", 86_400), ("P1W", 604_800), ("PT0S", 0), (0, 0), ("pt5m", 300),
        ],
    )  # fmt: skip
    def test_every_spelling(self, given: Any, seconds: int) -> None:
        assert parse_duration(given) == timedelta(seconds=seconds)

    @pytest.mark.parametrize("given", ["", "P", "PT", "soon", "1y", True, None, -1, 0.5, "99999w", 1e300, "-5m", []])
    def test_what_is_none(self, given: Any) -> None:
        with pytest.raises(ValueError, match=r"must|is "):
            parse_duration(given)

    @pytest.mark.parametrize("text", ["PT1H", "P1DT12H", "PT1M30S", "PT0S", "P7D", "PT59S"])
    def test_is_written_as_it_is_read(self, text: str) -> None:
        assert format_duration(parse_duration(text)) == text


class TestCron:
    @pytest.mark.parametrize(
        "good",
        [
            "* * * * *", "0 3 * * 1-5", "*/15 9-17 * * mon-fri", "0 0 1,15 * *", "5 4 * JAN-mar *", "0 9 * * 7",
            "10-50/20 * * * *", "  0   3 * *  * ", "@hourly", "@Daily", "0 0 13 * ?",
        ],
    )  # fmt: skip
    def test_good(self, good: str) -> None:
        assert check_cron(good) == " ".join(good.split()) or check_cron(good) == good.lower()

    @pytest.mark.parametrize(
        ("bad", "why"),
        [
            ("60 * * * *", "minute"), ("* 24 * * *", "hour"), ("* * 0 * *", "day of month"), ("* * * 13 *", "month"),
            ("* * * * 8", "day of week"), ("* * * * fry", "day of week"), ("5-1 * * * *", "backwards"),
            ("*/0 * * * *", "step"), ("*/x * * * *", "step"), ("* * * *", "five fields"), ("* * * * * *", "five"),
            ("@every 5m", "five"), ("0 0 13 * 5", "not both"), (", * * * *", "minute"), ("1- * * * *", "minute"),
            ("\u0663 * * * *", "minute"),
        ],
    )  # fmt: skip
    def test_bad(self, bad: str, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            check_cron(bad)


class TestSpecs:
    def test_one_or_many(self) -> None:
        spec = ScheduleSpec.model_validate({"cron": "0 3 * * *", "interval": "1h", "calendar": {"hour": "9-17/2"}})
        assert spec.cron == ("0 3 * * *",)
        assert spec.interval[0].every == timedelta(hours=1)
        assert [(one.start, one.end, one.step) for one in spec.calendar[0].hour] == [(9, 17, 2)]

    @pytest.mark.parametrize(
        ("given", "spans"),
        [
            (3, [(3, 3, 1)]), ("3", [(3, 3, 1)]), ("1-5", [(1, 5, 1)]), ("*", [(0, 59, 1)]), ("*/15", [(0, 59, 15)]),
            ("1,15", [(1, 1, 1), (15, 15, 1)]), ([1, "5-9"], [(1, 1, 1), (5, 9, 1)]), ("10/20", [(10, 59, 20)]),
            ({"start": 1, "end": 5}, [(1, 5, 1)]),
        ],
    )  # fmt: skip
    def test_calendar_numbers(self, given: Any, spans: list[tuple[int, int, int]]) -> None:
        calendar = Calendar.model_validate({"minute": given})
        assert [(one.start, one.end, one.step) for one in calendar.minute] == spans

    @pytest.mark.parametrize("given", [60, -1, "x", "5-1", "1-99", True, None, [None], "*/0"])
    def test_calendar_numbers_that_are_none(self, given: Any) -> None:
        with pytest.raises(ValidationError):
            Calendar.model_validate({"minute": given})

    @pytest.mark.parametrize(
        "given",
        [
            {}, {"time_zone": "UTC"}, {"interval": 0}, {"interval": {"every": "1h", "offset": "2h"}},
            {"cron": "0 3 * * *", "time_zone": "Mars/Olympus"}, {"cron": "0 3 * * *", "time_zone": "../etc/passwd"},
            {"cron": "0 3 * * *", "jitter": "2d"}, {"cron": ["0 3 * * *"] * 21},
            {"cron": "0 3 * * *", "start_at": "2027-01-02T00:00:00Z", "end_at": "2027-01-01T00:00:00Z"},
            {"cron": "0 3 * * *", "start_at": "2027-01-02T00:00:00"},
        ],
    )  # fmt: skip
    def test_refused(self, given: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            ScheduleSpec.model_validate(given)

    def test_survives_being_stored(self) -> None:
        wish = ScheduleWish.model_validate(
            {"kind": "x", "spec": {"cron": "0 3 * * *", "interval": 60, "calendar": {"hour": 1}, "jitter": 5}}
        )
        assert ScheduleSpec.model_validate(wish.spec.model_dump(mode="json")) == wish.spec

    def test_our_labels_are_ours(self) -> None:
        with pytest.raises(ValidationError):
            ScheduleWish.model_validate({"kind": "x", "spec": {"interval": 60}, "labels": {"longhaul.run": "mine"}})
