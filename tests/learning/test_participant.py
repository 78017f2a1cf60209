"""A participant against a server on a real socket, honest and otherwise."""

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prometheus_client import CollectorRegistry

from learning.digits.data import load_samples
from learning.digits.family import DigitsFamily
from learning.families import get_family
from learning.family import BadSample, Sample, Trained
from learning.participant.__main__ import main
from learning.participant.client import Participant, ParticipantOptions, read_samples
from learning.participant.metrics import ParticipantMetrics
from learning.participant.outbox import Outbox
from learning.participant.patience import BackOff, Breaker, BreakerState
from learning.participant.server import NothingToDo, Refused, Server, TryLater
from learning.weights import Weights, check, decode, encode, read_metadata
from tests.support.federated_server import PARTICIPANT_KEY, TENANT_KEY, StandIn, federated_server


class Hurried(BackOff):
    """Jitter is tested by itself."""

    def next_delay(self) -> float:
        super().next_delay()
        return 0.0


class Rig:
    """A participant and all around it."""

    def __init__(self, standin: StandIn, folder: Path) -> None:
        self.standin = standin
        self.folder = folder
        self.clock = 0.0
        self.registry = CollectorRegistry()
        self.metrics = ParticipantMetrics(self.registry)
        self.stop = threading.Event()
        self.server = Server(standin.url, timeout_seconds=5)
        self.breaker = Breaker(clock=lambda: self.clock, on_change=self.metrics.breaker.set)
        self.participant = self.born()

    def born(self, heartbeat_seconds: float = 30.0) -> Participant:
        options = ParticipantOptions(
            "digits", self.folder / "samples.jsonl", self.folder, heartbeat_seconds, back_off=Hurried()
        )
        return Participant(options, self.server, self.metrics, self.breaker, self.stop)

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.folder / "outbox")

    def uploads(self, result: str) -> float:
        return self.registry.get_sample_value("upload_attempts_total", {"result": result}) or 0.0


def train_until(monkeypatch: pytest.MonkeyPatch, seen: Callable[[], bool]) -> None:
    """Let training last until something is seen."""

    class Slow(DigitsFamily):
        def train(self, weights: Weights, samples: Sequence[Sample], hyperparameters: Mapping[str, Any]) -> Trained:
            pause = threading.Event()
            while not seen():
                pause.wait(0.005)
            return super().train(weights, samples, hyperparameters)

    monkeypatch.setattr("learning.participant.client.get_family", lambda _: Slow())


@pytest.fixture
def handlers() -> Iterator[None]:
    """Give the signals back to pytest afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    samples, _ = load_samples()
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples[:60]))
    standin = StandIn(encode(get_family("digits").init_weights(0)), plan={"epochs": 1})
    with federated_server(standin):
        made = Rig(standin, tmp_path)
        made.participant.enrol(TENANT_KEY)
        yield made
        made.server.close()


class TestOneRound:
    def test_it_trains_and_hands_in_weights_and_nothing_else(
        self, rig: Rig, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert rig.participant.step()
        (update,) = rig.standin.updates.values()
        assert check(update, parent=rig.standin.base).norm > 0.1
        metadata = read_metadata(update)
        assert metadata.keys() == {"examples", "loss", "duration_seconds"}
        assert metadata["examples"] == "60"
        assert rig.standin.enrolled == [{"model": "digits", "labels": {}, "name": None}]
        assert b"pixels" not in b"".join(rig.standin.bodies)
        assert rig.outbox.pending() == []
        assert rig.uploads("accepted") == 1
        assert rig.registry.get_sample_value("training_duration_seconds_count", {"family": "digits"}) == 1
        assert "training.completed" in capsys.readouterr().out

    def test_equal_plans_and_samples_give_equal_weights(self, rig: Rig) -> None:
        rig.standin.rounds = 2
        assert rig.participant.step()
        assert rig.participant.step()
        first, second = map(decode, rig.standin.updates.values())
        assert all((first[name] == second[name]).all() for name in first)
        assert rig.standin.count("blob") == 1, "the weights of the same base are fetched once"

    def test_nothing_to_do_is_a_pause_of_the_servers_length(self, rig: Rig) -> None:
        rig.standin.rounds = 0
        with pytest.raises(NothingToDo) as pause:
            rig.participant.step()
        assert pause.value.after_seconds == 3_600

    def test_identity_outlives_the_process_and_is_nobody_elses_to_read(self, rig: Rig) -> None:
        again = rig.born()
        again.enrol(None)
        assert again.step()
        assert rig.standin.count("enrol") == 1
        assert (rig.folder / "identity.json").stat().st_mode & 0o077 == 0

    def test_without_identity_and_key_it_refuses(self, rig: Rig) -> None:
        (rig.folder / "identity.json").unlink()
        with pytest.raises(Refused, match="not enrolled"):
            rig.born().enrol(None)

    def test_a_wrong_key_ends_it(self, rig: Rig) -> None:
        (rig.folder / "identity.json").unlink()
        with pytest.raises(Refused, match="401"):
            rig.born().enrol("wrong")

    def test_a_lease_lost_while_training_is_not_handed_in(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        train_until(monkeypatch, lambda: rig.standin.count("heartbeat") >= 1)
        rig.standin.fail("heartbeat", 410)
        participant = rig.born(heartbeat_seconds=0.01)
        participant.enrol(None)
        assert not participant.step()
        assert rig.standin.count("heartbeat") == 1
        assert rig.standin.updates == {}

    def test_heartbeats_go_on_while_it_trains_and_end_with_it(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        train_until(monkeypatch, lambda: rig.standin.count("heartbeat") >= 3)
        rig.standin.fail("heartbeat", 503)
        participant = rig.born(heartbeat_seconds=0.01)
        participant.enrol(None)
        assert participant.step()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("heartbeat")]

    @pytest.mark.parametrize(
        "line", ["{", "[]", '{"digit": 3}', '{"pixels": [1], "digit": 3}', '"' + "x" * 1_100_000 + '"']
    )
    def test_bad_samples_end_no_process_and_are_not_told(
        self, line: str, rig: Rig, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (rig.folder / "samples.jsonl").write_text(f"\n{line}\n")
        with pytest.raises(NothingToDo):
            rig.participant.step()
        assert "BadSample" in capsys.readouterr().out

    def test_training_that_breaks_ends_no_process_and_tells_where(
        self, rig: Rig, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Weights that are not those of the family: a fault of the model's, which another version may not have."""
        rig.standin.base = encode({"other": get_family("digits").init_weights(0)["hidden.bias"]})
        with pytest.raises(NothingToDo) as pause:
            rig.participant.step()
        assert 60 <= pause.value.after_seconds <= 90
        told = capsys.readouterr().out
        assert "TrainingFailed: KeyError at family.py:" in told

    def test_the_number_of_a_bad_line_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "samples.jsonl"
        path.write_text('{"a": 1}\n\n{"secret": 7\n')
        with pytest.raises(BadSample, match=r"^line 3 is not JSON$"):
            read_samples(path)


class TestDownload:
    def test_weights_that_are_gone_cost_the_lease_and_no_more(self, rig: Rig) -> None:
        """And a pause: the server would offer the same lease again at once."""
        rig.standin.fail("blob", 404)
        rig.standin.rounds = 2
        with pytest.raises(NothingToDo) as pause:
            rig.participant.step()
        assert 60 <= pause.value.after_seconds <= 90
        assert rig.participant.step()

    def test_one_that_breaks_off_is_resumed_where_it_was(self, rig: Rig) -> None:
        rig.standin.fail("blob", "half")
        with pytest.raises(TryLater, match="did not arrive"):
            rig.participant.step()
        assert rig.participant.step()
        assert rig.standin.count("lease") == 1, "the lease is still good"
        assert rig.standin.ranges == [f"bytes={len(rig.standin.base) // 2}-"]

    def test_a_complete_part_needs_no_more_bytes(self, rig: Rig) -> None:
        part = rig.folder / "weights" / f"{rig.standin.base_sha256}.part"
        part.write_bytes(rig.standin.base)
        assert rig.participant.step()

    def test_damaged_bytes_are_thrown_away(self, rig: Rig) -> None:
        part = rig.folder / "weights" / f"{rig.standin.base_sha256}.part"
        part.write_bytes(b"damaged")
        with pytest.raises(TryLater, match="damaged"):
            rig.participant.step()
        assert rig.participant.step()

    def test_a_server_that_ignores_ranges_is_understood(self, rig: Rig) -> None:
        part = rig.folder / "weights" / f"{rig.standin.base_sha256}.part"
        part.write_bytes(b"other bytes")
        rig.standin.fail("blob", "half")
        with pytest.raises(TryLater):
            rig.participant.step()
        assert part.read_bytes() == rig.standin.base[: len(rig.standin.base) // 2]


class TestHandingIn:
    @pytest.mark.parametrize("fault", ["cut", 408, 429, 500, 503, (503, {"Retry-After": "7"})])
    def test_what_could_not_be_sent_is_sent_later_without_training_again(self, fault: Any, rig: Rig) -> None:
        rig.standin.fail("upload", fault)
        with pytest.raises(TryLater) as later:
            rig.participant.step()
        if isinstance(fault, tuple):
            assert later.value.after_seconds == 7
        assert len(rig.outbox.pending()) == 1
        assert rig.uploads("retry") == 1
        reborn = rig.born()
        reborn.enrol(None)
        with pytest.raises(NothingToDo):
            reborn.step()
        assert len(rig.standin.updates) == 1
        assert rig.standin.count("blob") == 1
        assert rig.outbox.pending() == []

    def test_a_lost_answer_costs_nothing(self, rig: Rig) -> None:
        rig.standin.fail("upload", "after")
        with pytest.raises(TryLater):
            rig.participant.step()
        (accepted,) = rig.standin.updates.values()
        rig.participant.hand_in()
        assert list(rig.standin.updates.values()) == [accepted]
        assert rig.outbox.pending() == []

    @pytest.mark.parametrize("status", [404, 409, 410, 413, 422])
    def test_what_will_never_be_accepted_leaves_the_outbox(self, status: int, rig: Rig) -> None:
        rig.standin.fail("upload", status)
        assert rig.participant.step()
        assert rig.outbox.pending() == []
        assert rig.uploads("refused") == 1
        assert rig.breaker.state is BreakerState.CLOSED

    def test_a_place_whose_update_was_refused_is_left_until_its_deadline(self, rig: Rig) -> None:
        """The same samples would make the same update; another place is another chance."""
        rig.standin.rounds = 3
        rig.standin.place = _uuid(7)
        rig.standin.fail("upload", 422)
        assert rig.participant.step()
        with pytest.raises(NothingToDo) as pause:
            rig.participant.step()
        assert 240 < pause.value.after_seconds <= 450, "the stand-in gives five minutes"
        rig.standin.place = _uuid(8)
        assert rig.participant.step()
        assert list(rig.standin.updates) == [_uuid(8)]

    def test_a_revoked_key_keeps_the_update(self, rig: Rig) -> None:
        rig.standin.fail("upload", 401)
        with pytest.raises(Refused):
            rig.participant.step()
        assert len(rig.outbox.pending()) == 1

    def test_a_receipt_for_other_bytes_is_none(self, rig: Rig) -> None:
        parcel = rig.outbox.put(_uuid(1), "lease-token", rig.standin.base)
        rig.standin.updates[parcel.lease_id] = b"other"
        with pytest.raises(Refused, match="409"):
            rig.server.upload(PARTICIPANT_KEY, parcel, rig.outbox.weights_of(parcel))

    def test_a_receipt_can_be_asked_for(self, rig: Rig) -> None:
        assert rig.participant.step()
        ((lease_id, body),) = rig.standin.updates.items()
        assert rig.server.receipt(PARTICIPANT_KEY, lease_id).sha256 == _sha256(body)
        with pytest.raises(Refused, match="404"):
            rig.server.receipt(PARTICIPANT_KEY, _uuid(2))

    def test_the_breaker_opens_after_five_failures_and_one_probe_closes_it(self, rig: Rig) -> None:
        rig.outbox.put(_uuid(1), "lease-token", rig.standin.base)
        rig.standin.fail("upload", *[503] * 6)
        for _ in range(5):
            rig.participant.hand_in()
        assert rig.registry.get_sample_value("breaker_state") == BreakerState.OPEN
        rig.participant.hand_in()
        assert rig.standin.count("upload") == 5, "an open breaker lets nothing through"
        rig.clock = 60.0
        rig.participant.hand_in()
        assert (rig.standin.count("upload"), rig.breaker.state) == (6, BreakerState.OPEN)
        rig.clock = 120.0
        rig.participant.hand_in()
        assert (rig.standin.count("upload"), rig.breaker.state) == (7, BreakerState.CLOSED)
        assert rig.outbox.pending() == []

    def test_an_answer_that_is_no_receipt_is_tried_again(self, rig: Rig) -> None:
        rig.outbox.put(_uuid(1), "lease-token", rig.standin.base)
        rig.standin.fail("upload", (200, {}))
        rig.participant.hand_in()
        assert len(rig.outbox.pending()) == 1


class TestOutbox:
    def test_a_crash_between_weights_and_letter_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_bytes(b"half a parcel")
        (tmp_path / "b.json.part").write_bytes(b"{")
        assert Outbox(tmp_path).pending() == []
        assert list(tmp_path.iterdir()) == []

    def test_an_unreadable_letter_stops_nothing_else(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        (tmp_path / "x.json").write_bytes(b"{}")
        parcel = outbox.put(_uuid(1), "token", b"weights")
        assert outbox.pending() == [parcel]
        assert outbox.weights_of(parcel).read_bytes() == b"weights"


class TestBackOff:
    def test_delays_are_anything_up_to_a_doubling_bound(self) -> None:
        back_off = BackOff(base_seconds=1.0, cap_seconds=60.0)
        bounds = [1, 2, 4, 8, 16, 32, 60, 60]
        for bound in bounds:
            assert 0 <= back_off.next_delay() <= bound
        back_off.reset()
        assert back_off.next_delay() <= 1

    def test_they_spread_over_the_whole_range(self) -> None:
        delays = [BackOff(base_seconds=10.0).next_delay() for _ in range(400)]
        assert min(delays) < 1
        assert max(delays) > 9

    def test_many_failures_overflow_nothing(self) -> None:
        back_off = BackOff()
        assert all(back_off.next_delay() <= 300 for _ in range(5_000))


class TestRun:
    def test_it_goes_on_through_faults_until_it_is_told_to_stop(self, rig: Rig) -> None:
        rig.standin.rounds = 3
        for call in ("lease", "blob", "upload"):
            rig.standin.fail(call, 503, "cut")
        thread = threading.Thread(target=rig.participant.run, args=(None,))
        thread.start()
        done = threading.Event()
        while rig.standin.rounds >= 0:
            assert not done.wait(0.02)
        rig.stop.set()
        thread.join(10)
        assert not thread.is_alive()
        assert len(rig.standin.updates) == 3, "no lease was wasted"

    @pytest.mark.parametrize(("call", "status"), [("upload", 422), ("upload", 413), ("blob", 404)])
    def test_what_is_refused_for_good_is_no_reason_to_hurry(self, call: str, status: int, rig: Rig) -> None:
        """The server keeps offering the same place; it is neither trained for nor sent to again."""
        rig.standin.rounds = 1_000
        rig.standin.place = _uuid(7)
        rig.standin.fail(call, *[status] * 1_000)
        pauses: list[float] = []

        class Stop(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                pauses.append(timeout or 0.0)
                self.set()
                return True

        rig.stop = Stop()
        participant = rig.born()
        participant.enrol(None)
        participant.run(None)
        assert rig.standin.count(call) == 1
        assert [pause >= 60 for pause in pauses] == [True]

    def test_stopped_before_it_began_it_still_hands_in_what_waits(self, rig: Rig) -> None:
        rig.outbox.put(_uuid(1), "lease-token", rig.standin.base)
        rig.stop.set()
        rig.born().run(None)
        assert (rig.uploads("accepted"), rig.standin.count("lease")) == (1, 0)

    def test_stopped_before_it_was_enrolled_it_sends_nothing(self, rig: Rig) -> None:
        rig.outbox.put(_uuid(1), "lease-token", rig.standin.base)
        (rig.folder / "identity.json").unlink()
        rig.stop.set()
        rig.born().run(None)
        assert rig.standin.count("upload") == 0

    def test_an_identity_that_cannot_be_read_is_told(self, rig: Rig) -> None:
        (rig.folder / "identity.json").write_text("{")
        with pytest.raises(Refused, match="enrol anew"):
            rig.born()


@pytest.mark.usefixtures("handlers")
class TestCommandLine:
    def test_samples_that_are_not_there_are_an_error(self, rig: Rig, tmp_path: Path) -> None:
        arguments = ["--server", rig.standin.url, "--data", "/nowhere", "--family", "digits"]
        assert main([*arguments, "--folder", str(tmp_path / "new"), "--participants", "2"]) == 1

    def test_a_fleet_needs_a_sample_each(self, rig: Rig, tmp_path: Path) -> None:
        data = tmp_path / "one.jsonl"
        data.write_text("{}\n")
        arguments = ["--server", rig.standin.url, "--data", str(data), "--family", "digits"]
        assert main([*arguments, "--folder", str(tmp_path / "new"), "--participants", "2"]) == 1

    @pytest.mark.parametrize("arguments", [[], ["--family", "digits", "--participants", "0"]])
    def test_bad_arguments_are_an_error(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit):
            main(["--server", "http://x", "--data", "y", *arguments])

    def test_a_refused_key_is_an_error(self, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LONGHAUL_KEY", "wrong")
        data = str(rig.folder / "samples.jsonl")
        arguments = ["--server", rig.standin.url, "--data", data, "--family", "digits", "--metrics-port", "0"]
        assert main([*arguments, "--folder", str(tmp_path / "new")]) == 1

    def test_a_family_that_is_not_here_is_an_error(
        self, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LONGHAUL_KEY", TENANT_KEY)
        rig.standin.family = "unheard-of"
        data = str(rig.folder / "samples.jsonl")
        arguments = ["--server", rig.standin.url, "--data", data, "--model", "digits"]
        assert main([*arguments, "--folder", str(tmp_path / "new")]) == 1


def test_the_standin_refuses_a_digest_that_does_not_fit(rig: Rig) -> None:
    """The stand-in checks what the server checks, or the tests above would prove little."""
    answer = httpx.put(
        f"{rig.standin.url}/api/v1/federated/updates/{_uuid(3)}",
        content=b"x",
        headers={"Authorization": f"Bearer {PARTICIPANT_KEY}", "Content-Digest": "sha-256=:AAAA:"},
    )
    assert answer.status_code == 422


def _uuid(number: int) -> UUID:
    return UUID(int=number)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
