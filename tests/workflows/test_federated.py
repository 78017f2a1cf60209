"""Cycles on real servers, with devices moved by hand."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest
from sqlalchemy import select
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from activities.federated.report import Drawing, RoundFigures
from activities.federated.steps import FederatedActivities
from core.database import Database
from core.ids import new_id
from core.store import ArtifactStore
from core.temporal import connect, create_data_converter
from domain.artifacts import store_key
from domain.errors import RoundClosed, StoreUnavailable, UpdateRefused
from domain.federated import AggregationConfig
from domain.federated_registry import Rollback
from domain.jobs import JobAction
from learning.aggregation import UpdateRef, aggregate
from learning.digits.family import DigitsFamily
from learning.privacy import epsilon, round_loss
from learning.weights import encode
from repositories.federated.registry import RegistryRepository
from repositories.tables import artifacts
from services.commands import SEARCH_ATTRIBUTES
from services.demo.federated import make_samples
from services.federated.participants import NoPlace
from services.stack.ports import free_port
from services.stack.temporal import EmbeddedTemporal
from tests.support.federation import Federation, serving_cycles, update, weights
from tests.support.job_rows import event_rows, step_rows
from tests.support.waiting import eventually


@pytest.fixture
async def cycles(
    temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, tmp_path: Path
) -> AsyncIterator[Federation]:
    async with serving_cycles(temporal, database, store, tenant_id, tmp_path) as federation:
        yield federation


def expected(folder: Path, parent: bytes, seeds: list[int]) -> str:
    """The digest of the model that these updates make."""
    refs = []
    for seed in seeds:
        body = update(seed)
        path = folder / f"expected-{seed}"
        path.write_bytes(body)
        refs.append(UpdateRef(path, hashlib.sha256(body).hexdigest(), seed + 1))
    return aggregate(AggregationConfig(), parent, refs).sha256


class TestRounds:
    async def test_two_rounds_make_two_versions(self, cycles: Federation, tmp_path: Path) -> None:
        """Each from the one before; the job, its steps, events and rounds tell how."""
        await cycles.model()
        devices = await cycles.devices(3)
        job = await cycles.start(rounds=2)
        for number in (1, 2):
            for seed, device in enumerate(devices):
                await cycles.take_part(device, seed, round_=number)
        row = await cycles.until(job, "succeeded", "failed")
        assert row.status == "succeeded", row.error
        assert row.result["published"] == 2
        assert row.result["head"]["version"] == 3
        shown = await cycles.services.registry.get(cycles.tenant_id, "toy")
        newest, middle, first = shown.versions
        assert (newest.parent_id, middle.parent_id, first.parent_id) == (middle.id, first.id, None)
        assert middle.sha256 == expected(tmp_path, encode(weights(0)), [0, 1, 2])
        assert [decision.action for decision in shown.decisions] == ["published", "published", "created"]
        assert middle.metrics["reported_loss"] == pytest.approx(0.5)
        steps = await step_rows(cycles.database, job)
        assert {step.status for step in steps.values()} == {"succeeded"}
        types = [event.type for event in await event_rows(cycles.database, job)]
        assert types.count("round.published") == 2
        assert row.progress == 1

    async def test_history_has_no_more_than_45_events_a_round(self, cycles: Federation) -> None:
        """Whatever the number of participants: one signal when the goal is reached."""
        await cycles.model()
        devices = await cycles.devices(8)
        job = await cycles.start(rounds=2, goal=8)
        for number in (1, 2):
            for seed, device in enumerate(devices):
                await cycles.take_part(device, seed, round_=number)
        await cycles.until(job, "succeeded")
        events = await cycles.history(job)
        kinds = [event.event_type for event in events]
        assert kinds.count(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED) == 2
        opened = [
            index
            for index, event in enumerate(events)
            if event.activity_task_scheduled_event_attributes.activity_type.name == "open_round"
        ]
        assert opened[1] - opened[0] <= 45
        assert len(events) <= 45 + (opened[1] - opened[0])

    async def test_an_aggregate_is_not_computed_twice(
        self, cycles: Federation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A step that fails after it was in the store takes it from there: it is remembered by what it is made from."""
        computed: list[str] = []
        fails = [StoreUnavailable("away for a moment")]
        keep = FederatedActivities._keep

        def counted(*given: Any, **more: Any) -> Any:
            made = aggregate(*given, **more)
            computed.append(made.sha256)
            return made

        async def keep_later(*given: Any, **more: Any) -> Any:
            if fails:
                raise fails.pop()
            return await keep(*given, **more)

        monkeypatch.setattr("activities.federated.aggregates.aggregate", counted)
        monkeypatch.setattr(FederatedActivities, "_keep", keep_later)
        await cycles.model()
        devices = await cycles.devices(2)
        job = await cycles.start(rounds=1, goal=2)
        for seed, device in enumerate(devices):
            await cycles.take_part(device, seed)
        row = await cycles.until(job, "succeeded", "failed")
        assert row.status == "succeeded", row.error
        shown = await cycles.services.registry.get(cycles.tenant_id, "toy")
        assert shown.versions[0].sha256 == expected(tmp_path, encode(weights(0)), [0, 1])
        assert computed == [shown.versions[0].sha256]
        assert fails == []

    async def test_steps_outlive_an_hour_of_outage_and_not_a_day(self, cycles: Federation) -> None:
        """What participants have sent is not lost with the database's outage; what is broken ends all the same."""
        await cycles.model()
        (device,) = await cycles.devices(1)
        job = await cycles.start(goal=1)
        await cycles.take_part(device, 0)
        await cycles.until(job, "succeeded")
        scheduled = [event.activity_task_scheduled_event_attributes for event in await cycles.history(job)]
        policies = {one.activity_type.name: one.retry_policy for one in scheduled if one.activity_type.name}
        for name in ("aggregate_round", "evaluate_round", "publish_round", "report_cycle"):
            policy = policies[name]
            first, longest = policy.initial_interval.ToTimedelta(), policy.maximum_interval.ToTimedelta()
            assert policy.maximum_attempts > 0, name
            # Twenty doublings are longer than any longest pause.
            doublings = [min(number, 20) for number in range(policy.maximum_attempts - 1)]
            pauses = [min(longest, first * policy.backoff_coefficient**number) for number in doublings]
            assert timedelta(hours=1) < sum(pauses, timedelta(0)) < timedelta(days=1), name

    async def test_deadline_with_quorum(self, cycles: Federation) -> None:
        """The timer closes the round; what came counts."""
        await cycles.model()
        first, second, third = await cycles.devices(3)
        job = await cycles.start(deadline_seconds=3, min_deadline_seconds=1, quorum=2, adaptive=False)
        await cycles.take_part(first, 0)
        await cycles.take_part(second, 1)
        late = await cycles.lease(third)
        row = await cycles.until(job, "succeeded", "failed")
        assert row.status == "succeeded"
        (round_,) = await cycles.rounds(job)
        assert (round_.state, round_.accepted, round_.detail["missed"]) == ("published", 2, 1)
        with pytest.raises(RoundClosed):
            await cycles.send(third, late, update(2))

    async def test_below_quorum_is_abandoned_and_the_base_stays(self, cycles: Federation) -> None:
        """A cycle none of whose rounds counted fails; a retry runs them again."""
        await cycles.model()
        (device, *others) = await cycles.devices(3)
        before = await cycles.head()
        job = await cycles.start(deadline_seconds=2, min_deadline_seconds=1)
        await cycles.take_part(device, 0)
        row = await cycles.until(job, "succeeded", "failed")
        assert (row.status, row.error_code) == ("failed", "E.FEDERATED.QUORUM")
        assert (await cycles.head()).id == before.id
        (round_,) = await cycles.rounds(job)
        assert (round_.state, round_.version_id) == ("abandoned", None)
        await cycles.act(job, JobAction.RETRY)
        for seed, one in enumerate([device, *others]):
            await cycles.take_part(one, seed, round_=2)
        assert (await cycles.until(job, "succeeded", "failed")).status == "succeeded"

    async def test_a_cycle_without_a_round_that_counts_leaves_nothing(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, tmp_path: Path
    ) -> None:
        """No plot, however often its report is tried; and the claim of another cycle stays."""

        def plot(_model: str, _rounds: Sequence[RoundFigures]) -> list[Drawing]:
            return [Drawing(name="rounds.svg", media_type="image/svg+xml", body=b"<svg/>")]

        async with serving_cycles(temporal, database, store, tenant_id, tmp_path, plot=plot) as cycles:
            await cycles.model()
            job = await cycles.start(deadline_seconds=2, min_deadline_seconds=1)
            await cycles.until_open(job, 1)
            other = new_id()
            async with database.tenant(tenant_id) as connection:
                await RegistryRepository(connection).claim("toy", other)
            assert (await cycles.until(job, "succeeded", "failed")).error_code == "E.FEDERATED.QUORUM"
            async with database.tenant(tenant_id) as connection:
                assert (await RegistryRepository(connection).get_model("toy")).cycle_job_id == other
                query = select(artifacts.c.name).where(artifacts.c.job_id == job.job_id)
                assert (await connection.execute(query)).all() == []

    async def test_the_plot_shows_who_had_a_place(
        self, temporal: Client, database: Database, store: ArtifactStore, tenant_id: UUID, tmp_path: Path
    ) -> None:
        """More were asked than the goal, and one of them never came: neither number is the goal."""
        seen: list[RoundFigures] = []

        def plot(_model: str, rounds: Sequence[RoundFigures]) -> list[Drawing]:
            seen.extend(rounds)
            return []

        async with serving_cycles(temporal, database, store, tenant_id, tmp_path, plot=plot) as cycles:
            await cycles.model()
            *others, missing = await cycles.devices(4)
            job = await cycles.start(goal=2, over_selection=1.5)
            await cycles.lease(missing)
            for seed, device in enumerate(others[:2]):
                await cycles.take_part(device, seed)
            await cycles.until(job, "succeeded")
        assert [(one.leased, one.accepted) for one in seen] == [(3, 2)]

    async def test_cancel_closes_the_door(self, cycles: Federation) -> None:
        """No new places, and no updates under the old ones."""
        await cycles.model()
        first, second = await cycles.devices(2)
        job = await cycles.start()
        lease = await cycles.lease(first)
        await cycles.act(job, JobAction.CANCEL)
        await cycles.until(job, "canceled")
        with pytest.raises(RoundClosed):
            await cycles.send(first, lease, update(0))
        assert isinstance(await cycles.ask(second), NoPlace)

    async def test_two_cycles_on_one_model_take_turns(self, cycles: Federation) -> None:
        """As when two schedules fire at once: the second waits, and starts from what the first has made."""
        await cycles.model()
        devices = await cycles.devices(3)
        jobs = [await cycles.start(), await cycles.start()]
        for _ in jobs:
            for seed, device in enumerate(devices):
                await cycles.take_part(device, seed)
        for job in jobs:
            assert (await cycles.until(job, "succeeded", "failed")).status == "succeeded"
        assert (await cycles.head()).number == 3


class TestGate:
    async def test_a_worse_model_is_not_published(self, cycles: Federation) -> None:
        """The head stays, the version and the decision are kept, and the cycle goes on from the head."""
        await cycles.model()
        devices = await cycles.devices(3)
        job = await cycles.start(rounds=3, gate={"metric": "reported_loss", "delta": 0.1})
        for number, loss in ((1, 0.5), (2, 5.0), (3, 0.4)):
            for seed, device in enumerate(devices):
                await cycles.take_part(device, seed + 10 * number, round_=number, loss=loss)
        await cycles.until(job, "succeeded")
        states = [row.state for row in await cycles.rounds(job)]
        assert states == ["published", "rejected", "published"]
        shown = await cycles.services.registry.get(cycles.tenant_id, "toy")
        assert [version.status for version in shown.versions] == ["published", "rejected", "published", "published"]
        assert shown.versions[0].parent_id == shown.versions[2].id
        refusal = shown.decisions[1]
        assert (refusal.action, refusal.head_before, refusal.head_after) == (
            "rejected",
            shown.versions[2].id,
            shown.versions[2].id,
        )
        assert "worse by more than 0.1" in refusal.reason

    async def test_a_model_that_is_no_number_is_not_published(self, cycles: Federation) -> None:
        """Values that are finite, and a loss that is not: the round is rejected and the cycle goes on."""
        samples = await cycles.upload(b"\n".join(orjson.dumps(one) for one in make_samples(seed=9, count=50)))
        await cycles.create(name="toy", family="digits", holdout_artifact_id=samples)
        sane = dict(DigitsFamily().init_weights(0))
        sign = np.where(np.arange(64 * 64).reshape(64, 64) % 2, 1, -1)
        huge = {**sane, "hidden.weight": (3e38 * sign).astype(np.float32)}
        devices = await cycles.devices(3)
        job = await cycles.start(rounds=2, limits={"max_norm": None})
        for number, found in ((1, huge), (2, sane)):
            for seed, device in enumerate(devices):
                await cycles.take_part(device, seed, round_=number, weights=found)
        row = await cycles.until(job, "succeeded", "failed")
        assert row.status == "succeeded", row.error
        first, second = await cycles.rounds(job)
        assert (first.state, first.reason) == ("rejected", "not finite: loss")
        assert second.state == "published"

    async def test_what_participants_say_cannot_stop_a_cycle(self, cycles: Federation) -> None:
        """A loss that no sum can hold is left out; an update that far away is refused without being asked to be."""
        await cycles.model()
        first, second, third = await cycles.devices(3)
        job = await cycles.start()
        lease = await cycles.lease(first)
        with pytest.raises(UpdateRefused, match="moves the model"):
            await cycles.send(first, lease, update(0, scale=1e37))
        await cycles.send(first, lease, update(0, examples=10_000, loss=1e308))
        await cycles.take_part(second, 1, loss=0.25)
        await cycles.take_part(third, 2, loss=0.25)
        row = await cycles.until(job, "succeeded", "failed")
        assert row.status == "succeeded", row.error
        assert (await cycles.head()).metrics == {"reported_loss": 0.25}

    async def test_a_head_that_moved_is_not_overwritten(self, cycles: Federation) -> None:
        """Somebody rolled back while the round was in progress: compare-and-swap says no."""
        await cycles.model()
        devices = await cycles.devices(3)
        job = await cycles.start(rounds=2)
        for seed, device in enumerate(devices):
            await cycles.take_part(device, seed, round_=1)
        leases = [await cycles.lease(device, round_=2) for device in devices]
        await cycles.services.registry.roll_back(cycles.tenant_id, "toy", Rollback(), actor="test")
        for seed, (device, lease) in enumerate(zip(devices, leases, strict=True)):
            await cycles.send(device, lease, update(seed))
        await cycles.until(job, "succeeded")
        assert [row.state for row in await cycles.rounds(job)] == ["published", "rejected"]
        assert (await cycles.head()).number == 1


class TestPrivacy:
    async def test_what_was_spent_stays_spent(self, cycles: Federation) -> None:
        """Also by a round that the gate has rejected, and after a rollback: the data were looked at all the same."""
        await cycles.model()
        devices = await cycles.devices(3)
        privacy = {"clip_norm": 1.0, "noise_multiplier": 2.0, "denominator": 3}
        wish = {"aggregation": {"privacy": privacy}, "gate": {"metric": "reported_loss", "delta": 0.1}}
        first = await cycles.start(rounds=3, **wish)
        for number, loss in ((1, 0.5), (2, 5.0), (3, 0.4)):
            for seed, device in enumerate(devices):
                await cycles.take_part(device, seed + 10 * number, round_=number, loss=loss)
        await cycles.until(first, "succeeded")
        await cycles.services.registry.roll_back(cycles.tenant_id, "toy", Rollback(version=1), actor="test")
        second = await cycles.start(**wish)
        for seed, device in enumerate(devices):
            await cycles.take_part(device, seed)
        await cycles.until(second, "succeeded")
        rows = [*await cycles.rounds(first), *await cycles.rounds(second)]
        assert [row.state for row in rows] == ["published", "rejected", "published", "published"]
        spent = round_loss(2.0, 1.0)
        assert [row.detail["epsilon"] for row in rows] == [round(epsilon(n * spent, 1e-5), 4) for n in (1, 2, 3, 4)]


class TestStore:
    async def test_the_head_is_what_the_store_has(self, cycles: Federation) -> None:
        await cycles.model()
        head = await cycles.head()
        body = await cycles.store.get(store_key(cycles.tenant_id, head.sha256))
        assert hashlib.sha256(body).hexdigest() == head.sha256
        assert len(body) == head.bytes

    async def test_an_update_that_cannot_be_read_now_is_not_left_out(self, cycles: Federation) -> None:
        """Bytes that are not what their digest says are a fault of the store: the round waits until they are."""
        await cycles.model()
        devices = await cycles.devices(3)
        job = await cycles.start()
        receipts = [await cycles.take_part(device, seed) for seed, device in enumerate(devices[:2])]
        key = store_key(cycles.tenant_id, str(receipts[0].sha256))
        file = await cycles.store.fetch(key, Path("unused"))
        good = file.read_bytes()
        file.write_bytes(update(99, examples=1))
        await cycles.take_part(devices[2], 2)

        async def fault() -> Any:
            return (await step_rows(cycles.database, job))["rounds-01"].last_error

        seen = await eventually(fault, within=60)
        assert seen["code"] == "E.STORE.UNAVAILABLE"
        file.write_bytes(good)
        row = await cycles.until(job, "succeeded", "failed")
        assert row.status == "succeeded", row.error
        (round_,) = await cycles.rounds(job)
        assert (round_.state, round_.detail["left_out"]) == ("published", 0)


class TestLongCycles:
    async def test_continues_as_new_between_rounds(
        self, scratch: Path, database: Database, store: ArtifactStore, tenant_id: UUID, tmp_path: Path
    ) -> None:
        """Which round is next is in the database, so nothing is carried over and nothing is done twice."""
        server = EmbeddedTemporal(
            scratch / f"short-{tenant_id}",
            port=free_port(),
            ui_port=None,
            search_attributes=SEARCH_ATTRIBUTES,
            dynamic_config={"limit.historyCount.suggestContinueAsNew": 40},
        )
        await asyncio.to_thread(server.start)
        try:
            client = await connect(
                server.address, namespace="default", converter=create_data_converter(None), lazy=False
            )
            async with serving_cycles(client, database, store, tenant_id, tmp_path) as cycles:
                await cycles.model()
                devices = await cycles.devices(2)
                job = await cycles.start(rounds=4, goal=2)
                for number in range(1, 5):
                    for seed, device in enumerate(devices):
                        await cycles.take_part(device, seed, round_=number)
                row = await cycles.until(job, "succeeded", "failed")
                assert row.status == "succeeded", row.error
                assert [one.state for one in await cycles.rounds(job)] == ["published"] * 4
                first, *_ = await cycles.history(job)
                started = first.workflow_execution_started_event_attributes
                assert started.continued_execution_run_id
                types = [event.type for event in await event_rows(database, job)]
                assert types.count("round.opened") == 4
                assert types.count("job.succeeded") == 1
        finally:
            await asyncio.to_thread(server.stop)
