"""``python -m learning.participant --server URL --model NAME --data samples.jsonl``: take part until told to stop.

The key with which to enrol comes from the environment (``LONGHAUL_KEY``) or a file, never from the command line, where
every process could read it. ``--participants N`` plays a whole fleet: the samples are dealt out, and each virtual
participant has its own identity, outbox and connection, and speaks the same HTTP as a real one.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from learning.families import NoRuntime, UnknownFamily
from learning.participant.client import Participant, ParticipantOptions, read_samples
from learning.participant.metrics import ParticipantMetrics
from learning.participant.outbox import write_durably
from learning.participant.patience import Breaker
from learning.participant.server import Refused, Server

_log = structlog.get_logger("participant")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="learning.participant", description="Take part in federated learning.")
    parser.add_argument("--server", required=True, help="address of the API, such as https://longhaul.example")
    parser.add_argument("--data", required=True, type=Path, help="samples, one JSON object a line; they stay here")
    parser.add_argument("--model", help="name of the model; the name of the family where left out")
    parser.add_argument("--family", help="the family, where the model is named like it")
    parser.add_argument("--folder", type=Path, default=Path(".participant"), help="identity, outbox, weights")
    parser.add_argument("--key-file", type=Path, help="key to enrol with; the environment's LONGHAUL_KEY otherwise")
    parser.add_argument("--metrics-port", type=int, help="serve Prometheus metrics on this port of localhost")
    parser.add_argument("--heartbeat-seconds", type=float, default=30.0)
    parser.add_argument("--breaker-seconds", type=float, default=60.0, help="how long the circuit breaker stays open")
    parser.add_argument("--participants", type=int, default=1, help="play so many virtual participants")
    parsed = parser.parse_args(argv)
    parsed.model = parsed.model or parsed.family
    if not parsed.model:
        parser.error("--model or --family is needed")
    if parsed.participants < 1:
        parser.error("--participants is at least 1")
    return parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 1 where the server does not accept the key, or there are no samples."""
    arguments = _arguments(argv)
    _configure_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    registry = CollectorRegistry()
    metrics = ParticipantMetrics(registry)
    if arguments.metrics_port is not None:
        start_http_server(arguments.metrics_port, "127.0.0.1", registry)
    try:
        fleet = _fleet(arguments)
    except (OSError, ValueError) as fault:
        _log.error("participant.failed", detail=str(fault))
        return 1
    key = arguments.key_file.read_text().strip() if arguments.key_file else os.environ.get("LONGHAUL_KEY")
    with ThreadPoolExecutor(len(fleet)) as pool:
        return max(pool.map(lambda options: _take_part(arguments, options, metrics, stop, key), fleet))


def _take_part(
    arguments: argparse.Namespace,
    options: ParticipantOptions,
    metrics: ParticipantMetrics,
    stop: threading.Event,
    key: str | None,
) -> int:
    server = Server(arguments.server)
    breaker = Breaker(open_seconds=arguments.breaker_seconds, on_change=metrics.breaker.set)
    try:
        Participant(options, server, metrics, breaker, stop).run(key)
    except (Refused, NoRuntime, UnknownFamily) as fault:
        _log.error("participant.failed", detail=f"{type(fault).__name__}: {fault}")
        return 1
    finally:
        server.close()
    return 0


def _fleet(arguments: argparse.Namespace) -> list[ParticipantOptions]:
    """The options of each participant; of several, each has its share of the samples in a folder of its own."""
    count, folder = arguments.participants, arguments.folder
    samples = read_samples(arguments.data)
    if len(samples) < count:
        raise ValueError(f"{len(samples)} samples are too few for {count} participants")
    options = []
    for number in range(count):
        own = folder if count == 1 else folder / f"{number:05}"
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = arguments.data if count == 1 else own / "samples.jsonl"
        if count > 1:
            write_durably(data, "".join(json.dumps(sample) + "\n" for sample in samples[number::count]).encode())
        options.append(ParticipantOptions(arguments.model, data, own, arguments.heartbeat_seconds))
    return options


def _configure_logging() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
