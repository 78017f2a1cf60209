"""One participant: asks for a part in a round, trains, keeps the update on disk, hands it in, and begins again.

Samples are read from a local file and go into training; nothing but weights, their number and the loss leaves.
"""

import json
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog
from pydantic import ValidationError

from domain.federated_protocol import DURATION_SECONDS, EXAMPLES, LOSS, Enrolment, EnrolmentRequest, Lease, LeaseRequest
from learning.families import get_family
from learning.family import BadSample, Family, Sample, Trained
from learning.participant.metrics import ParticipantMetrics
from learning.participant.outbox import Outbox, Parcel, write_durably
from learning.participant.patience import BackOff, Breaker
from learning.participant.server import NothingToDo, Refused, Server, TryLater
from learning.weights import Weights, WeightsRefused, decode, encode

_KEY_INVALID: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_LONGEST_LINE_BYTES: Final = 1_048_576
_SHORTEST_PAUSE_SECONDS: Final = 60.0
_LONGEST_PAUSE_SECONDS: Final = 3_600.0
_log = structlog.get_logger("participant")


@dataclass(frozen=True, slots=True)
class ParticipantOptions:
    """How a participant behaves."""

    model: str
    data: Path
    """Samples, one JSON object a line; read anew for each training."""
    folder: Path
    """Its identity, its outbox and the weights it fetched."""
    heartbeat_seconds: float = 30.0
    back_off: BackOff = field(default_factory=BackOff)


class LeaseLost(Exception):
    """The round ended, or the lease was taken away, while training went on."""


class WeightsGone(Exception):
    """The server does not have the weights of its own round, and would offer the same round again."""


class TrainingFailed(Exception):
    """The family raised something that it does not promise; the text says what and where, and quotes no sample."""


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file. Raises :class:`BadSample`, with the number of a bad line and nothing of its content."""
    try:
        with path.open("rb") as file:
            return list(_parsed(file))
    except OSError as fault:
        raise BadSample(f"the samples cannot be read: {fault.strerror}") from fault


def _parsed(lines: Iterator[bytes]) -> Iterator[Sample]:
    for number, line in enumerate(lines, 1):
        if len(line) > _LONGEST_LINE_BYTES:
            raise BadSample(f"line {number} is longer than {_LONGEST_LINE_BYTES} bytes")
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
        except ValueError:
            raise BadSample(f"line {number} is not JSON") from None
        if not isinstance(sample, dict):
            raise BadSample(f"line {number} is not an object")
        yield sample


class Participant:
    """One participant on one server. One thread at a time. Raises :class:`Refused` where its identity is unreadable."""

    def __init__(
        self,
        options: ParticipantOptions,
        server: Server,
        metrics: ParticipantMetrics,
        breaker: Breaker,
        stop: threading.Event,
    ) -> None:
        self._options = options
        self._server = server
        self._metrics = metrics
        self._breaker = breaker
        self._stop = stop
        self._outbox = Outbox(options.folder / "outbox")
        self._fetched = options.folder / "weights"
        self._fetched.mkdir(exist_ok=True, mode=0o700)
        self._identity = options.folder / "identity.json"
        self._key = self._known_key()
        self._lease: Lease | None = None
        self._refused: UUID | None = None
        """The lease whose update was refused for good, latest."""

    # --- life -----------------------------------------------------------------------------------------

    def run(self, tenant_key: str | None) -> None:
        """Take part until asked to stop; what is in the outbox then stays there for the next start.

        Raises :class:`Refused` where the server does not know the key, or there is none.
        """
        self._patiently(lambda: self.enrol(tenant_key))
        while not self._stop.is_set():
            self._patiently(self.step)
        self.hand_in()

    def _patiently(self, work: Callable[[], object]) -> None:
        """Do it until it works, or there is a reason to wait, or it is time to stop."""
        while not self._stop.is_set():
            try:
                work()
            except TryLater as fault:
                wait = max(self._options.back_off.next_delay(), fault.after_seconds or 0.0)
                _log.warning("server.unavailable", detail=str(fault), wait_seconds=round(wait, 3))
                self._stop.wait(wait)
            except NothingToDo as pause:
                self._options.back_off.reset()
                self._stop.wait(pause.after_seconds)
                return
            else:
                self._options.back_off.reset()
                return

    def enrol(self, tenant_key: str | None) -> None:
        """Become the participant that this folder is, a new one where it is none yet."""
        if self._key:
            return
        if not tenant_key:
            raise Refused(HTTPStatus.UNAUTHORIZED, "this participant is not enrolled and has no key to do so")
        enrolment = self._server.enrol(tenant_key, EnrolmentRequest(model=self._options.model, labels={}))
        write_durably(self._identity, enrolment.model_dump_json().encode())
        self._key = enrolment.key
        _log.info("participant.enrolled", participant_id=str(enrolment.id))

    def _known_key(self) -> str:
        """The key of an earlier life; empty where there was none."""
        if not self._identity.exists():
            return ""
        try:
            return Enrolment.model_validate_json(self._identity.read_bytes()).key
        except ValidationError:
            detail = f"{self._identity} cannot be read; remove it to enrol anew"
            raise Refused(HTTPStatus.UNAUTHORIZED, detail) from None

    def step(self) -> bool:
        """Hand in what waits, then take part in one round; whether there was one that counted.

        Raises:
            NothingToDo: there is no round to take part in, or none in which this participant could do any good now.
            TryLater: the server could not be reached, or not now; nothing is lost.
            Refused: the key is not valid.
        """
        self._flush()
        lease = self._current_lease()
        if lease.id == self._refused:
            # Its place is still ours, but the same weights, samples and plan would make the same update.
            self._lease = None
            raise _pause((lease.deadline - datetime.now(UTC)).total_seconds())
        try:
            weights = self._train(lease)
        except (LeaseLost, WeightsGone, BadSample, TrainingFailed, WeightsRefused) as fault:
            self._lease = None
            _log.warning("training.failed", lease_id=str(lease.id), detail=f"{type(fault).__name__}: {fault}")
            if isinstance(fault, LeaseLost):
                return False
            raise _pause(_SHORTEST_PAUSE_SECONDS) from fault
        self._outbox.put(lease.id, lease.token, weights)
        self._lease = None
        self._flush()
        return True

    def _current_lease(self) -> Lease:
        """The lease that a failed download left, while it is worth something, or a new one."""
        if self._lease is None or self._lease.deadline <= datetime.now(UTC):
            self._lease = self._server.lease(self._key, LeaseRequest(model=self._options.model))
        return self._lease

    # --- training -------------------------------------------------------------------------------------

    def _train(self, lease: Lease) -> bytes:
        """The update for ``lease``, encoded.

        Raises LeaseLost, WeightsGone, BadSample, TrainingFailed, WeightsRefused, and NoRuntime or UnknownFamily for
        a family that is not here.
        """
        parent = decode(self._fetch(lease))
        self._forget_other_weights(lease)
        samples = read_samples(self._options.data)
        began = time.monotonic()
        with self._heartbeats(lease) as lost:
            trained = _trained(get_family(lease.family), parent, samples, lease)
        seconds = time.monotonic() - began
        self._metrics.training.labels(lease.family).observe(seconds)
        _log.info(
            "training.completed",
            lease_id=str(lease.id),
            round=lease.round,
            duration_seconds=round(seconds, 6),
            loss=round(trained.loss, 6),
            samples=trained.examples,
        )
        if lost.is_set():
            raise LeaseLost("the round ended meanwhile")
        return _encode(trained, seconds)

    def _fetch(self, lease: Lease) -> bytes:
        try:
            return self._server.fetch_weights(self._key, lease.base_sha256, self._fetched)
        except Refused as refusal:
            if refusal.status in _KEY_INVALID:
                raise
            raise WeightsGone(f"its weights are not to be had ({refusal.status})") from refusal

    def _forget_other_weights(self, lease: Lease) -> None:
        for path in self._fetched.iterdir():
            if path.stem != lease.base_sha256:
                path.unlink()

    @contextmanager
    def _heartbeats(self, lease: Lease) -> Iterator[threading.Event]:
        """Heartbeats inside the block; the event is set once the server says that the lease is gone."""
        done, lost = threading.Event(), threading.Event()

        def beat() -> None:
            while not done.wait(self._options.heartbeat_seconds):
                try:
                    self._server.heartbeat(self._key, lease)
                except Refused:
                    lost.set()
                    return
                except TryLater as fault:
                    _log.info("heartbeat.missed", lease_id=str(lease.id), detail=str(fault))

        thread = threading.Thread(target=beat, name=f"heartbeat-{lease.id}", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            done.set()
            thread.join()

    # --- handing in -----------------------------------------------------------------------------------

    def hand_in(self) -> None:
        """Try once to send what waits; what cannot be sent now stays."""
        if not self._key:
            return
        try:
            self._flush()
        except (TryLater, Refused) as fault:
            _log.info("outbox.kept", parcels=len(self._outbox.pending()), detail=str(fault))

    def _flush(self) -> None:
        """Send every parcel. Raises :class:`TryLater` while some remain."""
        for parcel in self._outbox.pending():
            if not self._breaker.allows():
                raise TryLater("the circuit breaker is open", self._breaker.seconds_until_probe())
            self._send(parcel)

    def _send(self, parcel: Parcel) -> None:
        """Send one parcel; accepted or refused for good, it leaves the outbox."""
        try:
            receipt = self._server.upload(self._key, parcel, self._outbox.weights_of(parcel))
        except TryLater:
            self._metrics.uploads.labels("retry").inc()
            self._breaker.failed()
            raise
        except Refused as refusal:
            self._breaker.succeeded()  # the server is there and knows what it wants
            self._metrics.uploads.labels("refused").inc()
            if refusal.status in _KEY_INVALID:
                raise
            self._refused = parcel.lease_id
            _log.warning("update.refused", lease_id=str(parcel.lease_id), status=refusal.status, detail=str(refusal))
        else:
            self._breaker.succeeded()
            self._metrics.uploads.labels("accepted").inc()
            _log.info("update.accepted", lease_id=str(parcel.lease_id), status=receipt.status)
        self._outbox.remove(parcel)


def _pause(seconds: float) -> NothingToDo:
    """Ask again after so long: a minute at least, an hour at most, and up to a half more.

    So that devices that met the same fault do not all come back at the same moment.
    """
    bounded = min(max(seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
    return NothingToDo(bounded * random.SystemRandom().uniform(1.0, 1.5))


def _trained(family: Family, parent: Weights, samples: list[Sample], lease: Lease) -> Trained:
    """What training gives. Raises :class:`BadSample`, and :class:`TrainingFailed` for whatever else goes wrong."""
    try:
        return family.train(parent, samples, lease.plan)
    except BadSample:
        raise
    except Exception as fault:  # a family may raise anything, and its text may quote a sample
        last = traceback.extract_tb(fault.__traceback__)[-1]
        raise TrainingFailed(f"{type(fault).__name__} at {Path(last.filename).name}:{last.lineno}") from fault


def _encode(trained: Trained, seconds: float) -> bytes:
    weights: Weights = trained.weights
    metadata = {EXAMPLES: str(trained.examples), LOSS: repr(trained.loss), DURATION_SECONDS: f"{seconds:.6f}"}
    return encode(weights, metadata)
