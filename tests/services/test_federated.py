"""Registry, participants and updates on real servers; no workflow is needed for most of it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest
from sqlalchemy import func, select, text
from sqlalchemy import update as sql_update
from temporalio.client import Client

from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from domain.errors import (
    BodyTooLarge,
    HeadMoved,
    InvalidInput,
    ModelExists,
    NoRuntime,
    NotFound,
    RoundClosed,
    UpdateConflict,
    UpdateRefused,
)
from domain.federated_protocol import EnrolmentRequest
from domain.federated_registry import NewModel, Rollback
from domain.jobs import JobAction, JobRef
from learning.weights import encode
from repositories.federated.rounds import ParticipantRepository, RoundRepository
from repositories.tables import commands, fl_leases, fl_participants
from services.demo.federated import make_samples
from services.federated.participants import Leased, NoPlace
from services.federated.runtime import FamilyRuntime
from services.tenants import Caller, Scope
from tests.support.federation import Device, Federation, all_of, serving_cycles, update, weights
from tests.support.waiting import eventually


@pytest.fixture
async def cycles(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, tmp_path: Path
) -> AsyncIterator[Federation]:
    async with serving_cycles(temporal, database, store, tenant_id, tmp_path) as federation:
        yield federation


@pytest.fixture
async def opened(cycles: Federation) -> tuple[Federation, JobRef]:
    """A round of three is open."""
    await cycles.model()
    job = await cycles.start(over_selection=1.0, limits={"max_norm": 20.0, "max_examples": 100})
    await cycles.until_open(job, 1)
    return cycles, job


class TestUpdates:
    async def test_accepted_once_and_the_receipt_says_so(self, opened: tuple[Federation, JobRef]) -> None:
        cycles, job = opened
        (device,) = await cycles.devices(1)
        lease = await cycles.lease(device)
        body = update(7)
        first = await cycles.send(device, lease, body)
        again = await cycles.send(device, lease, body)
        assert (first.replayed, again.replayed) == (False, True)
        assert first.sha256 == again.sha256 == hashlib.sha256(body).hexdigest()
        receipt = await cycles.services.updates.receipt(device.caller, lease.lease_id)
        assert (receipt.status, receipt.sha256) == ("accepted", first.sha256)
        (round_,) = await cycles.rounds(job)
        assert round_.accepted == 1
        (row,) = await cycles.leases(round_.id)
        assert (row.examples, row.bytes) == (8, len(body))
        assert row.norm == pytest.approx(_distance(weights(7), weights(0)), rel=1e-6)

    async def test_another_update_under_the_same_lease(self, opened: tuple[Federation, JobRef]) -> None:
        cycles, _ = opened
        (device,) = await cycles.devices(1)
        lease = await cycles.lease(device)
        await cycles.send(device, lease, update(1))
        with pytest.raises(UpdateConflict):
            await cycles.send(device, lease, update(2))

    async def test_many_at_once(self, opened: tuple[Federation, JobRef]) -> None:
        """Twenty copies of each update in flight: each counts once, and the goal is told once."""
        cycles, job = opened
        devices = await cycles.devices(3)
        leases = [await cycles.lease(device) for device in devices]
        sends = [
            cycles.send(device, lease, update(seed))
            for _ in range(20)
            for seed, (device, lease) in enumerate(zip(devices, leases, strict=True))
        ]
        results = await asyncio.gather(*sends, return_exceptions=True)
        accepted = [one for one in results if not isinstance(one, BaseException)]
        assert sum(not one.replayed for one in accepted) == 3
        assert all(isinstance(one, RoundClosed) for one in results if isinstance(one, BaseException))
        await cycles.until(job, "succeeded")
        (round_,) = await cycles.rounds(job)
        assert round_.accepted == 3

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (update(1, weights={**weights(1), "layer.bias": np.array([1, np.nan, 1], np.float32)}), "not_finite"),
            (update(1, weights={**weights(1), "layer.bias": np.array([1, np.inf, 1], np.float32)}), "not_finite"),
            (update(1, weights={**weights(1), "layer.bias": np.zeros(1, np.float32)}), "shape"),
            (update(1, weights={**weights(1), "layer.bias": np.zeros(3, np.float64)}), "dtype"),
            (update(1, weights={"layer.weight": weights(1)["layer.weight"]}), "names"),
            (update(1, scale=1_000.0), "norm"),
            (update(1, examples=0), "examples"),
            (update(1, examples=101), "examples"),
            (update(1, examples="-5"), "examples"),
            (update(1, examples="0" * 19 + "1" + "0" * 9), "examples"),
            (update(1, examples="0" * 19 + "1" + "0" * 30), "examples"),
            (update(1, examples="1" * 5_000), "examples"),
            (update(1, examples="\u0661"), "examples"),
            (encode(weights(1)), "examples"),
            (update(1)[:-4], "length"),
            (update(1) + b"\0" * 4, "length"),
            (b"", "length"),
            ((2**62).to_bytes(8, "little") + b"{}", "header"),
            ((50_000_000).to_bytes(8, "little") + b" " * 1_000, "header"),
            (b"\x02\0\0\0\0\0\0\0[]", "header"),
        ],
    )
    async def test_refused_with_the_reason(self, opened: tuple[Federation, JobRef], body: bytes, reason: str) -> None:
        """The lease stays good for a better update, and nothing is left on disk."""
        cycles, job = opened
        (device,) = await cycles.devices(1)
        lease = await cycles.lease(device)
        with pytest.raises(UpdateRefused) as refused:
            await cycles.send(device, lease, body)
        assert refused.value.reason == reason
        receipt = await cycles.services.updates.receipt(device.caller, lease.lease_id)
        assert receipt.status == "leased"
        assert str(receipt.reason).startswith(f"{reason}:")
        (round_,) = await cycles.rounds(job)
        assert (round_.accepted, round_.refused) == (0, 1)
        assert (await cycles.send(device, lease, update(1))).status == "accepted"

    async def test_not_what_the_digest_says(self, opened: tuple[Federation, JobRef]) -> None:
        cycles, _ = opened
        (device,) = await cycles.devices(1)
        lease = await cycles.lease(device)
        with pytest.raises(UpdateRefused) as refused:
            await cycles.send(device, lease, update(1), sha256="0" * 64)
        assert refused.value.reason == "digest"

    async def test_too_large_is_noticed_before_it_is_read(self, opened: tuple[Federation, JobRef]) -> None:
        cycles, _ = opened
        (device,) = await cycles.devices(1)
        lease = await cycles.lease(device)
        read = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal read
            yield b"\x10" + b"\0" * 7
            while True:
                read += 65_536
                yield b" " * 65_536

        with pytest.raises(BodyTooLarge):
            await cycles.services.updates.submit(
                device.caller, lease.lease_id, endless(), sha256="0" * 64, token=lease.token
            )
        assert read < lease.max_update_bytes + 3 * 65_536

    async def test_cut_in_the_middle(self, opened: tuple[Federation, JobRef], tmp_path: Path) -> None:
        """Nothing is counted and nothing stays behind; the whole update is accepted afterwards."""
        cycles, _ = opened
        (device,) = await cycles.devices(1)
        lease = await cycles.lease(device)

        async def cut() -> AsyncIterator[bytes]:
            yield update(1)[:50]
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await cycles.services.updates.submit(
                device.caller, lease.lease_id, cut(), sha256="0" * 64, token=lease.token
            )
        assert list(tmp_path.glob("*.safetensors")) == []
        assert (await cycles.send(device, lease, update(1))).status == "accepted"

    async def test_what_is_refused_is_not_kept(self, opened: tuple[Federation, JobRef]) -> None:
        cycles, _ = opened
        (device,) = await cycles.devices(1)
        lease = await cycles.lease(device)
        body = update(1, scale=1_000.0)
        with pytest.raises(UpdateRefused):
            await cycles.send(device, lease, body)
        sha256 = hashlib.sha256(body).hexdigest()
        with pytest.raises(NotFound):
            await cycles.store.get(f"{cycles.tenant_id}/{sha256[:2]}/{sha256}")


class TestLeases:
    async def test_asking_again_is_the_same_place(self, opened: tuple[Federation, JobRef]) -> None:
        """With a new token; the older one is good no more."""
        cycles, job = opened
        (device,) = await cycles.devices(1)
        first, second = await cycles.lease(device), await cycles.lease(device)
        assert first.lease_id == second.lease_id
        with pytest.raises(NotFound):
            await cycles.send(device, first, update(1))
        assert (await cycles.send(device, second, update(1))).status == "accepted"
        (round_,) = await cycles.rounds(job)
        assert (round_.leased, round_.handed_out) == (1, 1)

    async def test_asking_many_times_at_once_is_one_place(self, opened: tuple[Federation, JobRef]) -> None:
        """Whoever asks from eight hands leaves the places of the others alone."""
        cycles, job = opened
        eager, *others = await cycles.devices(3)
        found = await all_of(*(cycles.ask(eager) for _ in range(8)))
        assert len({one.lease_id for one in found}) == 1
        (round_,) = await cycles.rounds(job)
        assert (round_.leased, round_.handed_out) == (1, 1)
        for device in others:
            assert isinstance(await cycles.ask(device), Leased)

    async def test_rounds_are_locked_before_leases(self, opened: tuple[Federation, JobRef]) -> None:
        """A round that closes while somebody asks for the place of one who has vanished: neither is a deadlock."""
        cycles, job = opened
        *three, fourth = await cycles.devices(4)
        for device in three:
            await cycles.lease(device)
        async with cycles.database.tenant(cycles.tenant_id) as connection:
            await connection.execute(sql_update(fl_leases).values(expires_at=func.now() - timedelta(seconds=1)))

        async def waits_for_a_lock() -> bool:
            async with cycles.database.system() as connection:
                query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                return bool((await connection.execute(query)).scalar_one())

        async with cycles.database.tenant(cycles.tenant_id) as connection:
            rounds = RoundRepository(connection)
            round_ = await rounds.lock_round(job.job_id, 1)
            asking = asyncio.create_task(cycles.ask(fourth))
            await eventually(waits_for_a_lock)
            assert await rounds.close_leases(round_.id) == 3
            await rounds.set_round(round_.id, state="closed")
        assert isinstance(await asking, NoPlace)

    async def test_no_more_places_than_are_asked_for(self, opened: tuple[Federation, JobRef]) -> None:
        """Also when everybody asks at once; the others are told when to come back, each at another time."""
        cycles, _ = opened
        devices = await cycles.devices(8)
        found = await all_of(*(cycles.ask(device) for device in devices))
        assert sum(isinstance(one, Leased) for one in found) == 3
        waits = [one.retry_after for one in found if isinstance(one, NoPlace)]
        assert len(waits) == 5
        assert all(timedelta(seconds=1) <= wait <= timedelta(minutes=1) for wait in waits)

    async def test_whoever_asks_is_there(self, cycles: Federation) -> None:
        """However long ago it has enrolled: the pace follows from how many ask, not from how many are new."""
        asks, _ = await cycles.devices(2)
        async with cycles.database.tenant(cycles.tenant_id) as connection:
            await connection.execute(sql_update(fl_participants).values(seen_at=func.now() - timedelta(days=2)))
            assert await ParticipantRepository(connection).count() == 0
        assert isinstance(await cycles.ask(asks), NoPlace)
        async with cycles.database.tenant(cycles.tenant_id) as connection:
            assert await ParticipantRepository(connection).count() == 1
            first = (await ParticipantRepository(connection).get_one(asks.id)).seen_at
        await cycles.ask(asks)
        async with cycles.database.tenant(cycles.tenant_id) as connection:
            seen_at = (await ParticipantRepository(connection).get_one(asks.id)).seen_at
        assert seen_at == first, "once an hour is enough"

    async def test_a_canceled_cycle_is_nothing_to_hurry_for(self, opened: tuple[Federation, JobRef]) -> None:
        """While a cycle is at work there may soon be a place; the next one is not to be expected within seconds."""
        cycles, job = opened
        *three, fourth = await cycles.devices(4)
        for device in three:
            await cycles.lease(device)
        during = await cycles.ask(fourth)
        assert isinstance(during, NoPlace)
        assert during.retry_after <= timedelta(seconds=3)
        await cycles.act(job, JobAction.CANCEL)
        await cycles.until(job, "canceled")
        after = await cycles.ask(fourth)
        assert isinstance(after, NoPlace)
        assert after.retry_after >= timedelta(seconds=15)

    async def test_a_vanished_participant_gives_its_place_back(self, opened: tuple[Federation, JobRef]) -> None:
        """Once its lease has run out; should it come back while the round is open, it is welcome all the same."""
        cycles, job = opened
        *three, fourth = await cycles.devices(4)
        leases = [await cycles.lease(device) for device in three]
        assert isinstance(await cycles.ask(fourth), NoPlace)
        async with cycles.database.tenant(cycles.tenant_id) as connection:
            gone = fl_leases.c.id == leases[0].lease_id
            await connection.execute(
                sql_update(fl_leases).where(gone).values(expires_at=func.now() - timedelta(seconds=1))
            )
        lease = await cycles.ask(fourth)
        assert isinstance(lease, Leased)
        (round_,) = await cycles.rounds(job)
        assert (round_.leased, round_.handed_out) == (3, 4)
        assert (await cycles.send(three[0], leases[0], update(1))).status == "accepted"

    async def test_heartbeat(self, opened: tuple[Federation, JobRef]) -> None:
        cycles, _ = opened
        (device,) = await cycles.devices(1)
        lease = await cycles.lease(device)
        until = await cycles.services.participants.heartbeat(device.caller, lease.lease_id, lease.token)
        assert until >= lease.expires_at
        with pytest.raises(NotFound):
            await cycles.services.participants.heartbeat(device.caller, lease.lease_id, "wrong")

    async def test_of_somebody_else(self, opened: tuple[Federation, JobRef]) -> None:
        """Another participant and another tenant get the answer that an unknown lease gets."""
        cycles, _ = opened
        mine, other = await cycles.devices(2)
        lease = await cycles.lease(mine)
        for caller in (other.caller, Caller(new_id(), new_id(), "x", frozenset(Scope))):
            with pytest.raises(NotFound):
                await cycles.send(Device(other.id, caller), lease, update(1))

    async def test_a_key_of_the_tenant_names_the_participant(self, opened: tuple[Federation, JobRef]) -> None:
        cycles, _ = opened
        (device,) = await cycles.devices(1)
        manager = Device(device.id, cycles.operator)
        assert isinstance(await cycles.ask(manager, participant_id=str(device.id)), Leased)
        with pytest.raises(InvalidInput):
            await cycles.ask(manager)
        with pytest.raises(NotFound):
            await cycles.ask(manager, participant_id=str(new_id()))

    async def test_tags_and_models_choose(self, cycles: Federation) -> None:
        await cycles.model()
        await cycles.model("other")
        await cycles.start(tags=["country:de"])
        (german,) = await cycles.devices(1, labels={"country": "de", "age": "2"})
        (french,) = await cycles.devices(1, labels={"country": "fr"})
        (elsewhere,) = await cycles.devices(1, labels={"country": "de"}, model="other")
        assert isinstance(await cycles.lease(german), Leased)
        assert isinstance(await cycles.ask(french), NoPlace)
        assert isinstance(await cycles.ask(elsewhere), NoPlace)
        assert isinstance(await cycles.ask(german, model="other"), NoPlace)

    async def test_enrolling_again_ends_the_older_key(self, cycles: Federation) -> None:
        wish = EnrolmentRequest(name="phone-1")
        first = await cycles.services.participants.enrol(cycles.tenant_id, wish)
        second = await cycles.services.participants.enrol(cycles.tenant_id, wish)
        assert first.participant_id == second.participant_id
        assert first.key != second.key
        async with cycles.database.tenant(cycles.tenant_id) as connection:
            assert (await connection.execute(select(func.count()).select_from(fl_participants))).scalar_one() == 1
        with pytest.raises(NotFound):
            await cycles.services.participants.enrol(cycles.tenant_id, EnrolmentRequest(model="nix"))


class TestGoal:
    async def test_the_signal_is_written_with_the_update(self, opened: tuple[Federation, JobRef]) -> None:
        """In the same transaction: an API that dies after the commit leaves it to the dispatcher."""
        cycles, job = opened

        async def silent(_command: Any) -> bool:
            return False

        cycles.services.updates._sender.try_now = silent  # type: ignore[method-assign, assignment]
        for seed, device in enumerate(await cycles.devices(3)):
            await cycles.take_part(device, seed)
        async with cycles.database.system() as connection:
            query = select(commands.c.action, commands.c.args).where(commands.c.job_id == job.job_id)
            (command,) = (await connection.execute(query)).all()
        assert (command.action, command.args) == ("signal", {"signal": "goal_reached", "args": [1]})


class TestRegistry:
    async def test_first_version(self, cycles: Federation) -> None:
        shown = await cycles.model()
        assert shown.head is not None
        assert (shown.head.number, shown.head.status, shown.head.parent_id) == (1, "published", None)
        assert shown.row.schema == {"layer.bias": ["F32", [3]], "layer.weight": ["F32", [4, 3]]}
        with pytest.raises(ModelExists):
            await cycles.model()

    async def test_weights_that_are_none(self, cycles: Federation) -> None:
        bad = await cycles.upload(b"hello there")
        with pytest.raises(InvalidInput) as refused:
            await cycles.model("bad", weights_artifact_id=str(bad))
        assert refused.value.faults[0].pointer == "/weights_artifact_id"
        nan = await cycles.upload(encode({"w": np.array([np.nan], np.float32)}))
        with pytest.raises(InvalidInput):
            await cycles.model("bad", weights_artifact_id=str(nan))
        with pytest.raises(InvalidInput):
            await cycles.model("bad", weights_artifact_id=None)

    async def test_weights_of_another_family(self, cycles: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
        """Refused where the family can be asked; participants and predictions would fail on them."""
        toys = await cycles.upload(encode(weights(0)))
        with pytest.raises(InvalidInput) as refused:
            await cycles.create(name="numbers", family="digits", weights_artifact_id=toys)
        (fault,) = refused.value.faults
        assert fault.pointer == "/weights_artifact_id"
        assert "hidden.weight" in fault.message
        with pytest.raises(InvalidInput) as refused:
            await cycles.create(name="numbers", family="nix", weights_artifact_id=toys)
        assert refused.value.faults[0].pointer == "/family"
        own = await cycles.upload(FamilyRuntime().initial("digits", seed=5))
        assert (await cycles.create(name="numbers", family="digits", weights_artifact_id=own)).head is not None

        def without(*_: Any, **__: Any) -> bytes:
            raise NoRuntime("the family digits needs a library")

        monkeypatch.setattr(FamilyRuntime, "initial", without)
        assert (await cycles.create(name="unseen", family="digits", weights_artifact_id=toys)).head is not None

    async def test_rollback_and_back(self, cycles: Federation) -> None:
        await cycles.model()
        devices = await cycles.devices(3)
        job = await cycles.start(rounds=2)
        for number in (1, 2):
            for seed, device in enumerate(devices):
                await cycles.take_part(device, seed, round_=number)
        await cycles.until(job, "succeeded")
        registry = cycles.services.registry
        shown = await registry.roll_back(cycles.tenant_id, "toy", Rollback(reason="bad words"), actor="key x")
        assert shown.head is not None
        assert shown.head.number == 2
        assert [one.status for one in shown.versions] == ["rolled_back", "published", "published"]
        assert (shown.decisions[0].action, shown.decisions[0].actor, shown.decisions[0].reason) == (
            "rolled_back",
            "key x",
            "bad words",
        )
        with pytest.raises(HeadMoved):
            await registry.roll_back(cycles.tenant_id, "toy", Rollback(version=2), actor="x")
        shown = await registry.roll_back(cycles.tenant_id, "toy", Rollback(version=3), actor="x")
        assert shown.head is not None
        assert shown.head.number == 3
        await registry.roll_back(cycles.tenant_id, "toy", Rollback(version=1), actor="x")
        with pytest.raises(HeadMoved):
            await registry.roll_back(cycles.tenant_id, "toy", Rollback(), actor="x")
        with pytest.raises(NotFound):
            await registry.roll_back(cycles.tenant_id, "toy", Rollback(version=9), actor="x")

    async def test_only_weights_of_versions_are_handed_out(self, cycles: Federation) -> None:
        shown = await cycles.model()
        assert shown.head is not None
        assert await cycles.services.registry.find_blob(cycles.tenant_id, shown.head.sha256) == shown.head.bytes
        await cycles.upload(b"secret")
        with pytest.raises(NotFound):
            await cycles.services.registry.find_blob(cycles.tenant_id, hashlib.sha256(b"secret").hexdigest())
        with pytest.raises(NotFound):
            await cycles.services.registry.find_blob(new_id(), shown.head.sha256)

    async def test_prediction_follows_the_head(self, cycles: Federation) -> None:
        """Of a family that is known; a custom model says that its family is not."""
        shown = await cycles.services.registry.create(cycles.tenant_id, _digits("numbers"), actor="test")
        assert shown.head is not None
        picture = {"pixels": [float(pixel % 16) for pixel in range(64)]}
        found = await cycles.services.registry.predict(cycles.tenant_id, "numbers", [picture, picture])
        assert found.version == 1
        assert len(found.answers) == 2
        with pytest.raises(InvalidInput):
            await cycles.services.registry.predict(cycles.tenant_id, "numbers", [{"pixels": [1]}])
        await cycles.model()
        with pytest.raises(NoRuntime):
            await cycles.services.registry.predict(cycles.tenant_id, "toy", [{}])


def _distance(mine: dict[str, Any], theirs: dict[str, Any]) -> float:
    return float(np.sqrt(sum(np.sum((mine[name].astype(float) - theirs[name]) ** 2) for name in mine)))


def _digits(name: str) -> NewModel:
    return NewModel(name=name, family="digits", seed=3)


class TestHoldout:
    async def test_versions_are_judged_by_it(self, cycles: Federation) -> None:
        """Samples that the family does not take are refused before there is a model."""
        good = await cycles.upload(b"\n".join(orjson.dumps(sample) for sample in make_samples(seed=9, count=50)))
        wish = NewModel(name="judged", family="digits", holdout_artifact_id=good)
        shown = await cycles.services.registry.create(cycles.tenant_id, wish, actor="test")
        assert shown.row.holdout_sha256 is not None
        bad = await cycles.upload(b'{"pixels": [1]}')
        with pytest.raises(InvalidInput) as refused:
            await cycles.services.registry.create(
                cycles.tenant_id, NewModel(name="bad", family="digits", holdout_artifact_id=bad), actor="test"
            )
        assert refused.value.faults[0].pointer == "/holdout_artifact_id"
        with pytest.raises(InvalidInput):
            await cycles.services.registry.create(
                cycles.tenant_id, NewModel(name="bad", family="digits", holdout_artifact_id=new_id()), actor="test"
            )
        with pytest.raises(NotFound):
            await cycles.services.registry.get(cycles.tenant_id, "bad")
