"""What goes wrong, and when: the script of faults as data.

A script is a list of rules. The first rule that fits a call decides what happens to it; a call that fits none is
answered well. Everything is seeded, so the same calls in the same order meet the same faults.
"""

import random
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from domain.model import Frozen

# --- what happens -----------------------------------------------------------------------------------


class Delay(Frozen):
    """Answer well, but only after this long on top of the usual delay; the work goes on if the caller leaves."""

    kind: Literal["delay"] = "delay"
    seconds: Annotated[float, Field(ge=0)] = 1.0


class Status429(Frozen):
    """Refuse with 429 ``code``. ``retry_after`` and ``retry_after_ms`` go out as sent, so they may be absurd."""

    kind: Literal["status_429"] = "status_429"
    code: Literal["rate_limit_exceeded", "slow_down"] = "rate_limit_exceeded"
    retry_after: int | float | str | None = None
    retry_after_ms: int | float | str | None = None
    reset: str | None = None
    """Value of ``x-ratelimit-reset-requests``, a Go duration; None leaves the header out."""


class MalformedJson(Frozen):
    """Do and bill the work, then break it: the document in the message, or the whole body of the response."""

    kind: Literal["malformed_json"] = "malformed_json"
    where: Literal["content", "body"] = "content"


class SlowBytes(Frozen):
    """Do, bill and store the work, then send the body in pieces of ``size`` bytes, ``interval`` seconds apart."""

    kind: Literal["slow_bytes"] = "slow_bytes"
    size: Annotated[int, Field(ge=1)] = 64
    interval: Annotated[float, Field(ge=0)] = 0.02


class Hang(Frozen):
    """Never answer. With ``billed`` the work is done and stored first."""

    kind: Literal["hang"] = "hang"
    billed: bool = False


class Plain(Frozen):
    """The faults without particulars.

    Before the work, so neither billed nor stored: ``insufficient_quota``, ``status_500_before``, ``reset``,
    ``error_in_200``. With the work done, billed and stored: ``status_500_after``, ``reset_after``,
    ``schema_breaking``, ``refusal``, ``truncation``, ``content_filter``.
    """

    kind: Literal[
        "insufficient_quota",
        "status_500_before",
        "status_500_after",
        "schema_breaking",
        "refusal",
        "truncation",
        "content_filter",
        "reset",
        "reset_after",
        "error_in_200",
    ]


def _spelled_out(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Action = Annotated[
    Annotated[Delay | Status429 | MalformedJson | SlowBytes | Hang | Plain, Field(discriminator="kind")],
    BeforeValidator(_spelled_out),
]
"""A bare name such as ``"reset"`` stands for the action with its defaults."""

BEFORE_WORK: Final = frozenset({"status_429", "insufficient_quota", "status_500_before", "reset", "error_in_200"})
"""Kinds of action that keep the work from being begun."""


# --- when it happens --------------------------------------------------------------------------------


class Match(Frozen):
    """Which calls a rule is for; what is left out does not matter.

    ``schema_name`` and ``op`` may hold ``*`` and ``?``. Of the calls they select, ``nth`` picks one (from 1),
    ``every`` each so-manieth, ``probability`` a seeded share.
    """

    endpoint: Literal["chat", "moderations"] = "chat"
    schema_name: str | None = None
    op: str | None = None
    nth: Annotated[int, Field(ge=1)] | None = None
    every: Annotated[int, Field(ge=1)] | None = None
    probability: Annotated[float, Field(ge=0, le=1)] | None = None


class Rule(Frozen):
    """What happens to the calls that match, at most ``times`` times; without ``times``, always."""

    match: Match = Match()
    action: Action
    times: Annotated[int, Field(ge=1)] | None = None


RULES: Final[TypeAdapter[tuple[Rule, ...]]] = TypeAdapter(tuple[Rule, ...])
"""Reads a script from JSON: a list of rules."""


class Script:
    """The rules with their counters. Every rule counts the calls it selects, whichever rule then decides."""

    def __init__(self, rules: Iterable[Rule] = (), *, seed: int = 0) -> None:
        self.rules = tuple(rules)
        self._seed = seed
        self._seen = [0] * len(self.rules)
        self._fired = [0] * len(self.rules)

    def decide(self, *, schema_name: str | None = None, op: str | None = None, endpoint: str = "chat") -> Action | None:
        """Say what happens to the next call; None where it is to be answered well."""
        fitting = [
            index
            for index, rule in enumerate(self.rules)
            if rule.match.endpoint == endpoint and self._fits(index, rule, schema_name, op)
        ]
        for index in fitting:
            rule = self.rules[index]
            if rule.times is None or self._fired[index] < rule.times:
                self._fired[index] += 1
                return rule.action
        return None

    def _fits(self, index: int, rule: Rule, schema_name: str | None, op: str | None) -> bool:
        match = rule.match
        if not (_like(schema_name, match.schema_name) and _like(op, match.op)):
            return False
        self._seen[index] += 1
        count = self._seen[index]
        if match.nth is not None and count != match.nth:
            return False
        if match.every is not None and count % match.every:
            return False
        # A generator of its own for each decision: other rules and retries do not shift it.
        dice = random.Random(f"{self._seed}:{index}:{count}")  # noqa: S311
        return match.probability is None or dice.random() < match.probability


def _like(value: str | None, pattern: str | None) -> bool:
    return pattern is None or (value is not None and fnmatchcase(value, pattern))
