"""The one pipeline of log lines: ours, and those of every library that logs through the standard library.

A line carries what is known about where it comes from (request, tenant, job, workflow run, activity, trace), never a
secret, and never a control character: what a caller sends in cannot forge a second line.
"""

import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import orjson
import structlog
import temporalio.activity
import temporalio.workflow
from opentelemetry import trace
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from domain.jobs import JobRef

Mask = Callable[[str], str]
"""Replaces every secret in a text; a text without any comes back as it is."""

MASKED: Final = "***"

_SHORTEST_SECRET_CHARS: Final = 6  # masking anything shorter would eat ordinary words
_LONGEST_TEXT_CHARS: Final = 16_384
_MOST_ITEMS: Final = 200
_DEEPEST: Final = 12
_LEAST_INT: Final = -(2**63)  # orjson can write no integer beyond these
_GREATEST_INT: Final = 2**64 - 1

# Libraries that bring handlers of their own, which would write past the pipeline.
_FOREIGN: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "temporalio", "sqlalchemy", "alembic")
# At INFO httpx logs whole URLs (a Telegram token is part of one), at DEBUG httpcore logs headers.
_TALKATIVE: Final = ("httpx", "httpcore", "urllib3", "hpack")
_FIRST_KEYS: Final = ("timestamp", "level", "logger", "process", "event")
_FOREIGN_EXTRAS: Final = frozenset({"color_message", "temporal_log", "taskName"})

# Shapes of secrets. Each starts behind a look-behind or with a bounded run, so that none is quadratic in its input.
_SHAPES: Final = (
    (re.compile(r"(?<![A-Za-z0-9])lh_[A-Za-z0-9_.\-]{6,}"), f"lh_{MASKED}"),
    (re.compile(r"(?<![A-Za-z0-9])(sk-|sk_|whsec_|whsk_)[A-Za-z0-9_\-+/=]{8,}"), rf"\1{MASKED}"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"), MASKED),  # JSON web tokens
    (re.compile(r"(?<![0-9])[0-9]{6,12}:[A-Za-z0-9_-]{30,}"), MASKED),  # Telegram bots
    (re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9\-._~+/]+=*"), rf"\1 {MASKED}"),
    (
        re.compile(r"""(?i)\b(authorization["']?\s?[:=]\s?(?:b?["'])?(?:(?:basic|digest|bearer)\s)?)[^\s"',]+"""),
        rf"\1{MASKED}",
    ),
    (re.compile(r"(?i)(?<![a-z0-9])([a-z][a-z0-9+.\-]{0,30}://[^\s:/@]*):[^\s/]+@"), rf"\1:{MASKED}@"),
    (
        re.compile(
            r"""(?i)(?<![a-z0-9])(passw(?:or)?d|pwd|secret|token|api[_-]?key|access[_-]?key)\b"""
            r"""(["']?\s?[=:]\s?)("[^"]*"?|'[^']*'?|[^\s,;&"'}\])]+)"""
        ),
        rf"\1\2{MASKED}",
    ),
)
_SENSITIVE_KEY: Final = re.compile(
    r"(?:^|[_.])(?:passw(?:or)?d|pwd|secret|token|api_?key|pepper|authorization|cookie|credentials?|database_url)$"
)
# C0, DEL, C1, line separators, marks that reverse text, and surrogates, which no encoder accepts.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


# --- what must not be seen --------------------------------------------------------------------------


def create_mask(secrets: Sequence[str]) -> Mask:
    """A mask for these secrets, in any spelling they travel in, and for whatever looks like a secret.

    Secrets shorter than six characters are not looked for by value.
    """
    spellings = {spelling for secret in secrets for spelling in _spellings(secret)}
    # The longest first: of two secrets, one may begin with the other.
    known = "|".join(re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True))
    by_value = re.compile(known) if known else None

    def mask(text: str) -> str:
        if by_value is not None:
            text = by_value.sub(MASKED, text)
        for shape, replacement in _SHAPES:
            text = shape.sub(replacement, text)
        return text

    return mask


def _spellings(secret: str) -> Iterator[str]:
    """The secret itself, the password inside it if it is a URL, and both as quoted in URLs, JSON and Python."""
    values = [secret]
    if "://" in secret:
        with contextlib.suppress(ValueError):
            password = urlsplit(secret).password or ""
            values += [password, unquote(password)]
    for value in values:
        if len(value.strip()) >= _SHORTEST_SECRET_CHARS:
            yield from (
                value,
                quote(value, safe=""),
                json.dumps(value)[1:-1],
                repr(value)[1:-1],
                repr(value.encode())[2:-1],
            )


class _Cleaner:
    """Turns any value into one that can be written: masked, free of control characters, bounded, made of JSON types."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask

    def __call__(self, _: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
        return {self.text(_shown(key)): self._entry(_shown(key), value, 0) for key, value in event_dict.items()}

    def text(self, text: str) -> str:
        """The text on one line, without secrets."""
        # Cut twice: what cannot be shown need not be searched, and no cut may leave half a secret to be seen.
        masked = self._mask(text[: 2 * _LONGEST_TEXT_CHARS])
        if len(masked) > _LONGEST_TEXT_CHARS:
            masked = f"{masked[:_LONGEST_TEXT_CHARS]}... ({len(text)} characters)"
        return _CONTROL.sub(_escape, masked)

    def _entry(self, key: str, value: Any, depth: int) -> Any:
        if isinstance(value, bool | int | float | None):
            return self._value(value, depth)
        if _SENSITIVE_KEY.search(key.lower().replace("-", "_")):
            return MASKED
        return self._value(value, depth)

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int) and _LEAST_INT <= value <= _GREATEST_INT:
            return int(value)
        if depth < _DEEPEST and isinstance(value, Mapping):
            items = list(value.items())[:_MOST_ITEMS]
            return {self.text(_shown(key)): self._entry(_shown(key), item, depth + 1) for key, item in items}
        if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
            return [self._value(item, depth + 1) for item in list(value)[:_MOST_ITEMS]]
        return self.text(_shown(value))


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    return _SHORT_ESCAPES.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")  # noqa: PLR2004


def _shown(value: object) -> str:
    """The value as text; a value that cannot be shown must not cost the line."""
    try:
        if isinstance(value, date):
            return value.isoformat()
        return repr(value) if isinstance(value, BaseException | bytes) else str(value)
    except Exception:  # noqa: BLE001 - a stranger's __str__ may raise anything
        return f"<{type(value).__name__} that cannot be shown>"


# --- where a line comes from ------------------------------------------------------------------------


def _add_foreign_extras(logger: WrappedLogger, name: str, event_dict: EventDict) -> EventDict:
    """What a library passed as ``extra``, Temporal's flattened to the names that our own lines use."""
    structlog.stdlib.ExtraAdder()(logger, name, event_dict)
    for useless in _FOREIGN_EXTRAS:
        event_dict.pop(useless, None)
    for extra in (event_dict.pop("temporal_workflow", None), event_dict.pop("temporal_activity", None)):
        if isinstance(extra, Mapping):
            event_dict.update(_temporal_ids(extra))
    return event_dict


def _temporal_ids(extra: Mapping[str, Any]) -> dict[str, Any]:
    ids = {
        "workflow_id": extra.get("workflow_id"),
        "run_id": extra.get("workflow_run_id") or extra.get("run_id"),
        "workflow": extra.get("workflow_type"),
        "activity": extra.get("activity_type"),
        "attempt": extra.get("attempt"),
        "task_queue": extra.get("task_queue"),
        "update": extra.get("update_name"),
    }
    return {name: value for name, value in ids.items() if value is not None}


def _add_trace(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event_dict.setdefault("trace_id", trace.format_trace_id(context.trace_id))
        event_dict.setdefault("span_id", trace.format_span_id(context.span_id))
    return event_dict


@contextlib.contextmanager
def bind_job(job: JobRef, **more: Any) -> Iterator[None]:
    """Put the ids of ``job`` on every line logged inside, and those of the activity where one is running.

    ``attempt`` is Temporal's attempt at the activity, ``job_attempt`` the one of the job.
    """
    ids: dict[str, Any] = {
        "job_id": str(job.job_id),
        "tenant_id": str(job.tenant_id),
        "kind": job.kind,
        "job_attempt": job.attempt,
        "workflow_id": job.workflow_id,
    }
    if job.request_id is not None:
        ids["request_id"] = job.request_id
    if temporalio.activity.in_activity():
        info = temporalio.activity.info()
        ids |= {"run_id": info.workflow_run_id, "activity": info.activity_type, "attempt": info.attempt}
        ids["workflow_id"] = info.workflow_id or job.workflow_id
    with structlog.contextvars.bound_contextvars(**ids, **more):
        yield


# --- how a line looks -------------------------------------------------------------------------------


def _in_order(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    first = {key: event_dict.pop(key) for key in _FIRST_KEYS if key in event_dict}
    return {**first, **event_dict}


def _render_json(_: WrappedLogger, __: str, event_dict: EventDict) -> str:
    return orjson.dumps(event_dict).decode()


def _traceback_as_text(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """For the eyes of a developer: the traceback as Python prints it, made of parts that are clean already."""
    stacks = event_dict.get("exception")
    if isinstance(stacks, list):
        event_dict["exception"] = "\n".join(_traceback_lines(stacks))
    return event_dict


def _traceback_lines(stacks: list[dict[str, Any]], indent: str = "") -> Iterator[str]:
    # The outermost exception comes first in the structure and last in a traceback.
    for stack in reversed(stacks):
        yield f"{indent}Traceback (most recent call last):"
        for frame in stack["frames"]:
            yield f'{indent}  File "{frame["filename"]}", line {frame["lineno"]}, in {frame["name"]}'
        yield f"{indent}{stack['exc_type']}: {stack['exc_value']}"
        yield from (f"{indent}{note}" for note in stack.get("exc_notes", ()))
        for member in stack.get("exceptions", ()):
            yield from _traceback_lines(member, indent + "  | ")


class _Handler(logging.Handler):
    """Writes lines to standard error, and a line about the fault where one cannot be made.

    The standard library would print the arguments of a bad line instead, secrets and all.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as fault:  # noqa: BLE001 - logging must never break what it reports on
            line = json.dumps(
                {
                    "timestamp": datetime.now(UTC).isoformat(),
                    "level": "error",
                    "logger": record.name,
                    "process": self._process,
                    "event": f"a log line could not be made: {type(fault).__name__}",
                    "where": f"{record.pathname}:{record.lineno}",
                }
            )
        # sys.stderr is looked up each time, as it may be replaced; it may also be gone, or closed.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"{line}\n")


def _formatter(*, json_lines: bool, process: str, mask: Mask) -> structlog.stdlib.ProcessorFormatter:
    def add_process(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
        event_dict["process"] = process
        return event_dict

    last: list[Processor] = [_render_json]
    if not json_lines:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        last = [_traceback_as_text, renderer]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_add_foreign_extras],
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            add_process,
            _add_trace,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _Cleaner(mask),
            _in_order,
            *last,
        ],
    )


# --- switching it on --------------------------------------------------------------------------------


def configure_logging(*, json_lines: bool, level: str, process: str, secrets: Sequence[str]) -> None:
    """Send every log line of this process through the one pipeline to standard error; again to change something.

    ``process`` names the kind of process on each line. uvicorn must be run with ``log_config=None``, or it brings
    handlers of its own.
    """
    handler = _Handler(process)
    handler.setFormatter(_formatter(json_lines=json_lines, process=process, mask=create_mask(secrets)))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _FOREIGN:
        foreign = logging.getLogger(name)
        foreign.handlers = []
        foreign.propagate = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    # The ids are fields of the line; repeated in its text they would only make it unsearchable.
    temporalio.activity.logger.activity_info_on_message = False
    temporalio.workflow.logger.workflow_info_on_message = False
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _log_uncaught(kind: type[BaseException], fault: BaseException, traceback: TracebackType | None) -> None:
    """A crash is a line as well; the interpreter would print it unmasked."""
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("uncaught").critical("the process ends", exc_info=(kind, fault, traceback))


def _log_uncaught_in_thread(details: threading.ExceptHookArgs) -> None:
    if details.exc_value is not None and not issubclass(details.exc_type, SystemExit):
        exc_info = (details.exc_type, details.exc_value, details.exc_traceback)
        logging.getLogger("uncaught").error("a thread ends", exc_info=exc_info)
