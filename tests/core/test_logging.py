import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import temporalio.activity
import temporalio.workflow
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment
from temporalio.worker import Worker

with temporalio.workflow.unsafe.imports_passed_through():
    import orjson
    import structlog
    from opentelemetry import trace

    from core.logging import bind_job, configure_logging, create_mask
    from domain.jobs import JobRef

TEMPORAL = Path(sys.executable).with_name("temporal")
CANARY = "canary-7f3a/+ü'quoted"
API_KEY = "lh_live_5RrZk0q9canary"
JOB = JobRef(
    job_id=UUID("01936f00-0000-7000-8000-000000000001"),
    tenant_id=UUID("01936f00-0000-7000-8000-000000000002"),
    kind="generation.course",
    attempt=2,
    request_id="req-1",
)
_NAMES = ("uvicorn", "uvicorn.error", "uvicorn.access", "temporalio", "sqlalchemy", "alembic", "httpx", "httpcore")


def _fail(fault: Exception) -> None:
    raise fault


def _configure() -> None:
    """Also to be called inside a test whose lines pytest's own handler, added after the fixtures, cannot bear."""
    configure_logging(json_lines=True, level="INFO", process="worker", secrets=[CANARY, "postgres://u:p4ss%2Fword@h/d"])


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Everything that configure_logging touches, put back as it was."""
    root = logging.getLogger()
    loggers = [logging.getLogger(name) for name in (*_NAMES, "urllib3", "hpack")]
    before = [(one, one.handlers, one.propagate, one.level) for one in (root, *loggers)]
    hooks = sys.excepthook, threading.excepthook
    adapters = temporalio.activity.logger, temporalio.workflow.logger
    yield
    for one, handlers, propagate, level in before:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    adapters[0].activity_info_on_message = adapters[1].workflow_info_on_message = True
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """The JSON lines written since the last call; fails where one is not JSON."""
    _configure()
    return lambda: [orjson.loads(line) for line in capsys.readouterr().err.splitlines()]


class TestLines:
    def test_carries_the_basics(self, lines: Lines) -> None:
        structlog.get_logger("services.jobs").info("job finished", kind="a.b", seconds=1.5)
        (line,) = lines()
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "level": "info",
            "logger": "services.jobs",
            "process": "worker",
            "event": "job finished",
            "kind": "a.b",
            "seconds": 1.5,
        }

    def test_takes_in_the_standard_library(self, lines: Lines) -> None:
        logging.getLogger("uvicorn.error").warning("port %d", 80, extra={"color_message": "x", "client": "c"})
        (line,) = lines()
        assert line["event"] == "port 80"
        assert line["level"] == "warning"
        assert line["client"] == "c"
        assert "color_message" not in line

    def test_replaces_handlers_of_libraries(self, lines: Lines) -> None:
        """A handler that uvicorn installed before would write past the pipeline."""
        foreign = logging.getLogger("uvicorn")
        foreign.addHandler(logging.StreamHandler())
        foreign.propagate = False
        configure_logging(json_lines=True, level="INFO", process="api", secrets=[])
        foreign.error("once")
        assert [line["event"] for line in lines()] == ["once"]

    def test_obeys_the_level(self, lines: Lines) -> None:
        structlog.get_logger("x").debug("no")
        logging.getLogger("x").debug("no")
        logging.getLogger("httpx").info("GET https://api.telegram.org/bot1:x/getMe")
        assert lines() == []

    def test_takes_in_warnings(self, lines: Lines) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=True)
            warnings.warn(f"old {CANARY}", UserWarning, stacklevel=1)
            logging.captureWarnings(capture=False)
        assert "old ***" in lines()[0]["event"]

    def test_survives_values_that_cannot_be_written(self, lines: Lines) -> None:
        class Hostile:
            def __str__(self) -> str:
                raise RuntimeError

        _configure()
        structlog.get_logger("x").info(
            "odd", hostile=Hostile(), big=2**70, huge=10**5_000, surrogate="\ud800", nan=float("nan"), id=JOB.job_id
        )
        (line,) = lines()
        assert line["hostile"] == "<Hostile that cannot be shown>"
        assert line["big"] == str(2**70)
        assert line["surrogate"] == "\\ud800"
        assert line["id"] == str(JOB.job_id)

    def test_survives_a_value_that_contains_itself(self, lines: Lines) -> None:
        endless: dict[str, Any] = {}
        endless["again"] = endless
        structlog.get_logger("x").info("odd", endless=endless, text="x" * 1_000_000)
        (line,) = lines()
        assert len(orjson.dumps(line)) < 40_000

    def test_reports_a_line_that_cannot_be_made(self, lines: Lines) -> None:
        """The standard library would print the arguments instead."""
        _configure()
        logging.getLogger("x").info("%d", CANARY)
        (line,) = lines()
        assert line["event"] == "a log line could not be made: TypeError"
        assert line["process"] == "worker"
        assert line["logger"] == "x"

    def test_is_readable_in_development(self, capsys: pytest.CaptureFixture[str]) -> None:
        configure_logging(json_lines=False, level="INFO", process="api", secrets=[CANARY])
        try:
            _fail(ValueError(f"with {CANARY}\nForged: line"))
        except ValueError:
            structlog.get_logger("x").exception("it broke")
        text = capsys.readouterr().err
        assert "it broke" in text
        assert "Traceback (most recent call last):" in text
        assert "ValueError: with ***\\nForged: line" in text


class TestSecrets:
    @pytest.mark.parametrize(
        "secret",
        [CANARY, API_KEY, "canary-7f3a%2F%2B%C3%BC%27quoted", "p4ss%2Fword", "p4ss/word"],
        ids=["known", "api key", "quoted", "password of a url", "the same unquoted"],
    )
    def test_never_appear(self, secret: str, capsys: pytest.CaptureFixture[str], lines: Lines) -> None:
        """Not in the message, a value, a nested value, an exception, a cause, a note, a foreign line or a crash."""
        log = structlog.get_logger("x")
        message = f"message {secret}"
        log.info(message, value=secret, nested={"a": [{"b": secret}]}, as_bytes=secret.encode())
        log.info("by %s", secret)
        logging.getLogger("std").warning("by %s", secret, extra={"more": secret})
        try:
            try:
                _fail(KeyError(secret))
            except KeyError as cause:
                cause.add_note(f"note {secret}")
                raise RuntimeError(f"outer {secret}") from cause
        except RuntimeError as fault:
            log.exception("failed", error=fault)
            logging.getLogger("std").exception("failed")
            sys.excepthook(type(fault), fault, fault.__traceback__)
        written = capsys.readouterr().err
        assert len(written.splitlines()) == 6
        assert secret not in written
        assert "7f3a" not in written
        assert "5RrZk" not in written
        assert "p4ss" not in written

    def test_local_variables_are_not_shown(self, capsys: pytest.CaptureFixture[str], lines: Lines) -> None:
        def fail() -> None:
            local = "a-local-value"
            raise ValueError(len(local))

        try:
            fail()
        except ValueError:
            structlog.get_logger("x").exception("failed")
        written = capsys.readouterr().err
        assert "a-local-value" not in written
        frames = orjson.loads(written)["exception"][0]["frames"]
        assert frames[-1]["name"] == "fail"

    def test_are_masked_by_name(self, lines: Lines) -> None:
        structlog.get_logger("x").info(
            "m", password="abc", headers={"Authorization": "x", "Set-Cookie": "y"}, input_tokens=5, api_key=None
        )
        (line,) = lines()
        assert line["password"] == "***"
        assert line["headers"] == {"Authorization": "***", "Set-Cookie": "***"}
        assert line["input_tokens"] == 5
        assert line["api_key"] is None

    @pytest.mark.parametrize(
        ("text", "masked"),
        [
            ("key lh_dev_abcdefgh.", "key lh_***"),
            ("Authorization: Bearer abc.def-1=", "Authorization: Bearer ***"),
            ("{'authorization': 'Basic dXNlcg=='}", "{'authorization': 'Basic ***'}"),
            ("at postgresql+psycopg://me:p@ss@host:5432/db", "at postgresql+psycopg://me:***@host:5432/db"),
            ("http://host:8000/path?mail=a@b", "http://host:8000/path?mail=a@b"),
            (
                "https://api.telegram.org/bot123456789:AAE_abcdefghijklmnopqrstuvwxyz01234/x",
                "https://api.telegram.org/bot***/x",
            ),
            ("password=hunter2 user=me", "password=*** user=me"),
            ("?token=abc&page=2", "?token=***&page=2"),
            ('{"api_key": "a b", "n": 1}', '{"api_key": ***, "n": 1}'),
            ("sk-proj-abcdefgh12345678", "sk-***"),
            ("max_tokens=5 and tokens: 7", "max_tokens=5 and tokens: 7"),
            ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "***"),
        ],
    )
    def test_are_known_by_their_shape(self, text: str, masked: str) -> None:
        assert create_mask([])(text) == masked

    def test_short_ones_do_not_eat_words(self) -> None:
        assert create_mask(["a", "", "     "])("a banana") == "a banana"

    @pytest.mark.parametrize("part", ["a", "eyJ", "lh_", "://", "x://a", "password ", "bearer ", "1", " ", "sk-", "a:"])
    def test_masking_is_not_quadratic(self, part: str) -> None:
        text = part * (400_000 // len(part))
        started = time.process_time()
        create_mask(["abcdefgh"])(text)
        assert time.process_time() - started < 2


class TestInjection:
    @pytest.mark.parametrize("json_lines", [True, False])
    def test_a_value_cannot_make_a_line(self, capsys: pytest.CaptureFixture[str], json_lines: bool) -> None:
        configure_logging(json_lines=json_lines, level="INFO", process="api", secrets=[])
        hostile = 'x\r\n{"level":"error"}\u2028y\x1b[31m\x85\u202e\x00'
        structlog.get_logger("x").info(f"got {hostile}", value=hostile, **{"key\nwith": 1})
        logging.getLogger("x").info("got %s", hostile)
        written = capsys.readouterr().err
        assert len(written.splitlines()) == 2
        assert not set("\r\u2028\x1b\x85\u202e\x00") & set(written)
        for line in written.splitlines() if json_lines else ():
            assert "\n" not in orjson.loads(line)["event"]
            assert "\\r\\n" in orjson.loads(line)["event"]


class TestIds:
    def test_of_a_job(self, lines: Lines) -> None:
        with bind_job(JOB, step="plan"):
            structlog.get_logger("x").info("inside")
            logging.getLogger("x").info("inside")
        logging.getLogger("x").info("outside")
        ours, theirs, outside = lines()
        for line in (ours, theirs):
            assert line["job_id"] == str(JOB.job_id)
            assert line["tenant_id"] == str(JOB.tenant_id)
            assert line["workflow_id"] == JOB.workflow_id
            assert line["request_id"] == "req-1"
            assert line["job_attempt"] == 2
            assert line["step"] == "plan"
        assert "job_id" not in outside

    async def test_of_an_activity(self, lines: Lines) -> None:
        async def act() -> None:
            with bind_job(JOB):
                structlog.get_logger("x").info("ours")
            temporalio.activity.logger.info("Temporal's")

        await ActivityEnvironment().run(act)
        for line in lines():
            assert line["activity"] == "unknown"
            assert line["attempt"] == 1
            assert line["run_id"] == "test-run"
            assert line["workflow_id"] == "test"
        assert line["event"] == "Temporal's"
        assert "temporal_activity" not in line

    def test_of_a_workflow(self, lines: Lines) -> None:
        extra = {"temporal_workflow": {"workflow_id": "w/1", "run_id": "r", "workflow_type": "W", "attempt": 1}}
        logging.getLogger("temporalio.workflow").info("m", extra=extra)
        (line,) = lines()
        assert (line["workflow_id"], line["run_id"], line["workflow"]) == ("w/1", "r", "W")
        assert "temporal_workflow" not in line

    def test_of_a_span(self, lines: Lines) -> None:
        context = trace.SpanContext(0xABC, 0xDEF, is_remote=False)
        with trace.use_span(trace.NonRecordingSpan(context)):
            logging.getLogger("x").info("inside")
        logging.getLogger("x").info("outside")
        inside, outside = lines()
        assert inside["trace_id"] == f"{0xABC:032x}"
        assert inside["span_id"] == f"{0xDEF:016x}"
        assert "trace_id" not in outside

    def test_of_a_request(self, lines: Lines) -> None:
        with structlog.contextvars.bound_contextvars(request_id="r-9"):
            logging.getLogger("sqlalchemy").warning("slow")
        assert lines()[0]["request_id"] == "r-9"


class TestCrash:
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_of_a_thread_is_a_line(self, lines: Lines) -> None:
        def fail() -> None:
            raise RuntimeError(f"with {CANARY}")

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        (line,) = lines()
        assert line["logger"] == "uncaught"
        assert line["exception"][0]["exc_value"] == "with ***"

    def test_an_interrupt_is_none(self, lines: Lines) -> None:
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert lines() == []


@temporalio.activity.defn
async def refuse() -> None:
    with bind_job(JOB):
        structlog.get_logger("activities.x").info("about to refuse")
    raise ApplicationError(f"refused with {CANARY}")


@temporalio.workflow.defn
class Refused:
    @temporalio.workflow.run
    async def run(self) -> None:
        try:
            await temporalio.workflow.execute_activity(
                refuse,
                start_to_close_timeout=timedelta(seconds=10),
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
        except Exception:
            temporalio.workflow.logger.exception("the activity said no", extra={"step": "first"})
            raise


class TestUnderTemporal:
    @pytest.mark.parametrize("json_lines", [True, False])
    async def test_lines_of_a_sandboxed_workflow_come_through(
        self, capsys: pytest.CaptureFixture[str], json_lines: bool
    ) -> None:
        """The pipeline runs inside the sandbox then, where much of the standard library is out of reach."""
        configure_logging(json_lines=json_lines, level="INFO", process="worker", secrets=[CANARY])
        async with (
            await WorkflowEnvironment.start_local(
                dev_server_existing_path=str(TEMPORAL), dev_server_log_level="never"
            ) as environment,
            Worker(environment.client, task_queue="q", workflows=[Refused], activities=[refuse]),
        ):
            with pytest.raises(WorkflowFailureError):
                await environment.client.execute_workflow(Refused.run, id="refused/1", task_queue="q")
        written = capsys.readouterr().err
        assert CANARY not in written
        assert "could not be made" not in written
        if not json_lines:
            assert "the activity said no" in written
            return
        lines = {one["event"]: one for one in map(orjson.loads, written.splitlines())}
        ours, theirs = lines["about to refuse"], lines["Completing activity as failed"]
        for line in (ours, theirs):
            assert (line["activity"], line["attempt"], line["workflow_id"]) == ("refuse", 1, "refused/1")
        assert ours["job_id"] == str(JOB.job_id)
        assert theirs["exception"][0]["exc_value"] == "refused with ***"
        workflow = lines["the activity said no"]
        assert (workflow["workflow"], workflow["workflow_id"], workflow["step"]) == ("Refused", "refused/1", "first")
        assert workflow["run_id"] == ours["run_id"] == theirs["run_id"]
