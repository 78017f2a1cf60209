"""What aggregation promises: order does not matter, bad updates do no harm, memory does not grow with participants."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from domain.federated import (
    AggregationConfig,
    Bulyan,
    DifferentialPrivacy,
    FedAvg,
    FedAvgM,
    FedOpt,
    Krum,
    Median,
    MultiKrum,
    Strategy,
    TrimmedMean,
)
from learning.aggregation import AggregationRefused, Impossible, UpdateRef, aggregate, memo_key
from learning.weights import decode, encode
from tests.support.federated import near, random_weights, stored

STRATEGIES: list[Strategy] = [
    FedAvg(), FedAvgM(), FedOpt(name="fedadam"), FedOpt(name="fedyogi"), FedOpt(name="fedadagrad"),
    Median(), TrimmedMean(), Krum(malicious=2), MultiKrum(malicious=2, selected=4), Bulyan(malicious=1),
]  # fmt: skip
PRIVACY = DifferentialPrivacy(clip_norm=1.0, noise_multiplier=1.0, denominator=10)


def a_round(folder: Path, count: int = 9) -> tuple[bytes, list[UpdateRef]]:
    parent = random_weights(0)
    return encode(parent), [stored(folder, near(parent, 100 + n), examples=n + 1) for n in range(count)]


class TestOrder:
    @pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
    def test_arrival_changes_no_bit(self, strategy: Strategy, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        config, state = AggregationConfig(strategy=strategy, clip_norm=0.9), None
        first = aggregate(config, parent, updates)
        if first.state is not None:
            parent, state = first.weights, first.state
            first = aggregate(config, parent, updates, state)
        shuffler = np.random.default_rng(1)
        for _ in range(10):
            order = shuffler.permutation(len(updates))
            again = aggregate(config, parent, [updates[index] for index in order], state)
            assert (again.weights, again.state, again.updates) == (first.weights, first.state, first.updates)

    def test_widths_of_blocks_change_no_bit_of_a_mean(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        parent, updates = a_round(tmp_path)
        wide = aggregate(AggregationConfig(), parent, updates)
        monkeypatch.setattr("learning.aggregation.BLOCK_VALUES", 5)
        assert aggregate(AggregationConfig(), parent, updates).weights == wide.weights

    def test_a_parent_in_a_file_is_as_good(self, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        path = tmp_path / "parent"
        path.write_bytes(parent)
        assert aggregate(AggregationConfig(), path, updates) == aggregate(AggregationConfig(), parent, updates)

    def test_the_memo_key_follows_content_not_order(self, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        digest, config = hashlib.sha256(parent).hexdigest(), AggregationConfig()
        of = [(update.sha256, update.examples) for update in updates]
        key = memo_key(config, digest, of, None)
        assert memo_key(config, digest, of[::-1], None) == key
        more = (updates[0].sha256, updates[0].examples + 1)
        others = [
            memo_key(config, digest, of[1:], None),
            memo_key(config, digest, [more, *of[1:]], None),
            memo_key(config, "0" * 64, of, None),
            memo_key(config, digest, of, "f" * 64),
            memo_key(AggregationConfig(clip_norm=1.0), digest, of, None),
        ]
        assert len({key, *others}) == 6


class TestMean:
    def test_it_is_weighted_by_examples(self, tmp_path: Path) -> None:
        parent = encode({"w": np.zeros(2, np.float32)})
        updates = [
            stored(tmp_path, {"w": np.array([1, 0], np.float32)}, examples=1),
            stored(tmp_path, {"w": np.array([0, 4], np.float32)}, examples=3),
        ]
        result = aggregate(AggregationConfig(), parent, updates)
        np.testing.assert_allclose(decode(result.weights)["w"], [0.25, 3.0])
        assert sorted(outcome.share for outcome in result.updates) == [0.25, 0.75]
        assert result.delta_norm == pytest.approx((0.25**2 + 3.0**2) ** 0.5)
        assert result.state is None
        assert result.sha256 == hashlib.sha256(result.weights).hexdigest()

    def test_types_stay_what_they_are(self, tmp_path: Path) -> None:
        parent: dict[str, Any] = {
            "half": np.ones(3, np.float16),
            "double": np.ones(3),
            "counter": np.array([7], np.int64),
        }
        updates = [stored(tmp_path, near(parent, n, spread=5.0)) for n in range(5)]
        for strategy in STRATEGIES[:7]:
            made = decode(aggregate(AggregationConfig(strategy=strategy), encode(parent), updates[:5]).weights)
            assert {name: value.dtype for name, value in made.items()} == {
                name: value.dtype for name, value in parent.items()
            }

    def test_counters_take_the_rounded_mean(self, tmp_path: Path) -> None:
        updates = [stored(tmp_path, {"c": np.array([n], np.int32)}) for n in (10, 10, 12)]
        made = aggregate(AggregationConfig(strategy=FedAvgM()), encode({"c": np.array([0], np.int32)}), updates)
        assert decode(made.weights)["c"].tolist() == [11]

    def test_an_update_beyond_the_clip_norm_counts_less(self, tmp_path: Path) -> None:
        parent = encode({"w": np.zeros(1, np.float32)})
        updates = [stored(tmp_path, {"w": np.array([value], np.float32)}) for value in (1.0, 100.0)]
        result = aggregate(AggregationConfig(clip_norm=2.0), parent, updates)
        assert decode(result.weights)["w"].tolist() == [1.5]
        assert sorted((outcome.norm, outcome.clipped) for outcome in result.updates) == [(1.0, False), (100.0, True)]


class TestBadUpdates:
    @pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_one_that_is_not_finite_is_left_out_and_says_so(
        self, strategy: Strategy, value: float, tmp_path: Path
    ) -> None:
        parent, updates = a_round(tmp_path)
        config = AggregationConfig(strategy=strategy)
        wanted = aggregate(config, parent, updates)
        poison = near(random_weights(0), 5)
        poison["scale"] = np.asarray(value, np.float32)
        bad = stored(tmp_path, poison, examples=10_000)
        result = aggregate(config, parent, [bad, *updates])
        assert (result.weights, result.state) == (wanted.weights, wanted.state)
        refused = [outcome for outcome in result.updates if outcome.refused]
        assert [(one.sha256, one.refused, one.share, one.norm) for one in refused] == [
            (bad.sha256, "not_finite", 0.0, None)
        ]

    def test_malformed_ones_are_left_out_with_their_reasons(self, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        other = random_weights(0) | {"scale": np.zeros(2, np.float32)}
        bad = {
            stored(tmp_path, other).sha256: "shape",
            stored(tmp_path, b"rubbish!").sha256: "header",
            stored(tmp_path, near(random_weights(0), 77), examples=0).sha256: "examples",
        }
        refs = [UpdateRef(tmp_path / digest, digest, int(why != "examples")) for digest, why in bad.items()]
        result = aggregate(AggregationConfig(), parent, updates + refs)
        assert {one.sha256: one.refused for one in result.updates if one.refused} == bad
        assert result.weights == aggregate(AggregationConfig(), parent, updates).weights

    def test_bytes_that_changed_on_disk_are_found_when_asked_for(self, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        updates[0].path.write_bytes(encode(near(random_weights(0), 555)))
        assert not any(one.refused for one in aggregate(AggregationConfig(), parent, updates).updates)
        result = aggregate(AggregationConfig(), parent, updates, verify_digests=True)
        assert [one.sha256 for one in result.updates if one.refused == "digest"] == [updates[0].sha256]

    @pytest.mark.parametrize(
        ("strategy", "count"),
        [
            (FedAvg(), 0),
            (Krum(malicious=1), 4),
            (MultiKrum(malicious=1, selected=5), 5),
            (Bulyan(malicious=1), 6),
        ],
    )
    def test_too_few_are_refused(self, strategy: Strategy, count: int, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path, count)
        with pytest.raises(AggregationRefused) as refusal:
            aggregate(AggregationConfig(strategy=strategy), parent, updates)
        assert refusal.value.reason is Impossible.TOO_FEW

    def test_only_bad_ones_are_too_few(self, tmp_path: Path) -> None:
        bad = stored(tmp_path, {"w": np.array([np.nan], np.float32)})
        with pytest.raises(AggregationRefused) as refusal:
            aggregate(AggregationConfig(), encode({"w": np.zeros(1, np.float32)}), [bad])
        assert refusal.value.reason is Impossible.TOO_FEW

    def test_a_model_beyond_its_type_is_refused(self, tmp_path: Path) -> None:
        parent = encode({"w": np.full(1, 60_000, np.float16)})
        update = stored(tmp_path, {"w": np.full(1, 65_000, np.float16)})
        with pytest.raises(AggregationRefused) as refusal:
            aggregate(AggregationConfig(strategy=FedAvgM(server_learning_rate=9.0)), parent, [update])
        assert refusal.value.reason is Impossible.NOT_FINITE


class TestRobust:
    @pytest.mark.parametrize("strategy", [Krum(malicious=2), MultiKrum(malicious=2, selected=4), Bulyan(malicious=1)])
    def test_outliers_are_not_selected(self, strategy: Strategy, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path, 9)
        far = [stored(tmp_path, near(random_weights(0), 900 + n, spread=50.0)) for n in range(1)]
        result = aggregate(AggregationConfig(strategy=strategy), parent, updates + far)
        shares = {one.sha256: one.share for one in result.updates}
        assert shares[far[0].sha256] == 0.0
        assert sum(shares.values()) == pytest.approx(1.0)

    def test_krum_tells_apart_what_a_float32_product_cannot(self, tmp_path: Path) -> None:
        """Weights of a thousand with differences of a thousandth: products in float32 are all noise."""
        base = np.full(50, 1_000.0, np.float32)
        offsets = [0.0, 0.001, 0.002, 0.5, 0.9]
        updates = [stored(tmp_path, {"w": base + np.float32(offset)}) for offset in offsets]
        result = aggregate(AggregationConfig(strategy=Krum(malicious=1)), encode({"w": base}), updates)
        assert decode(result.weights)["w"][0] == pytest.approx(1_000.001, abs=6e-5)


class TestState:
    def test_moments_of_another_strategy_start_anew(self, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        adam = AggregationConfig(strategy=FedOpt(name="fedadam"))
        state = aggregate(AggregationConfig(strategy=FedAvgM()), parent, updates).state
        assert aggregate(adam, parent, updates, state).weights == aggregate(adam, parent, updates).weights

    @pytest.mark.parametrize("damage", ["rubbish", "schema", "orders", "count"])
    def test_a_foreign_state_is_refused(self, damage: str, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        states: dict[str, bytes] = {
            "rubbish": b"rubbish",
            "schema": encode({"m.else": np.zeros(3, np.float32)}, {"strategy": "fedavgm", "rounds": "1"}),
            "orders": encode({"privacy.rdp": np.zeros(3)}, {"strategy": "fedavg"}),
            "count": encode({"w": np.zeros(3)}, {"strategy": "fedavg", "rounds": "many"}),
        }
        with pytest.raises(AggregationRefused) as refusal:
            aggregate(AggregationConfig(strategy=FedAvgM()), parent, updates, states[damage])
        assert refusal.value.reason is Impossible.STATE


class TestPrivacy:
    def private(self, **change: Any) -> AggregationConfig:
        return AggregationConfig(privacy=PRIVACY.model_copy(update=change))

    def test_a_repeated_call_releases_the_same_noise(self, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        first = aggregate(self.private(), parent, updates, noise_secret=b"round 1")
        assert aggregate(self.private(), parent, updates[::-1], noise_secret=b"round 1") == first

    def test_another_secret_or_another_set_of_updates_gives_unrelated_noise(self, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        made = [
            aggregate(self.private(noise_multiplier=100.0), parent, chosen, noise_secret=secret).weights
            for chosen, secret in [(updates, b"1"), (updates, b"2"), (updates[1:], b"1")]
        ]
        for one, other in itertools.combinations(map(decode, made), 2):
            difference = np.abs(one["hidden.weight"] - other["hidden.weight"]).mean()
            assert difference > 5  # two draws with a deviation of ten

    def test_noise_has_the_promised_deviation_and_the_sum_the_fixed_denominator(self, tmp_path: Path) -> None:
        parent = {"w": np.zeros(100_000, np.float32)}
        update = stored(tmp_path, {"w": np.full(100_000, 1.0, np.float32)}, examples=500)
        config = self.private(noise_multiplier=3.0, clip_norm=2.0, denominator=4)
        values = decode(aggregate(config, encode(parent), [update], noise_secret=b"s").weights)["w"]
        assert values.std() == pytest.approx(3.0 * 2.0 / 4, rel=0.02)
        clipped = 2.0 / 100_000**0.5 / 4  # one participant of four that are counted, whatever its examples
        assert values.mean() == pytest.approx(clipped, abs=0.02)

    def test_epsilon_grows_over_rounds_survives_a_pause_and_ends_at_the_limit(self, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        first = aggregate(self.private(), parent, updates, noise_secret=b"1")
        assert first.privacy is not None
        assert first.privacy.epsilon == pytest.approx(4.752728336819823)
        open_round = aggregate(AggregationConfig(strategy=FedAvgM()), first.weights, updates, first.state)
        second = aggregate(self.private(), open_round.weights, updates, open_round.state, noise_secret=b"2")
        assert second.privacy is not None
        assert (second.privacy.rounds, second.privacy.epsilon > first.privacy.epsilon) == (2, True)
        with pytest.raises(AggregationRefused) as refusal:
            aggregate(self.private(epsilon_limit=7.0), second.weights, updates, second.state, noise_secret=b"3")
        assert refusal.value.reason is Impossible.PRIVACY

    def test_without_a_secret_there_is_no_privacy(self, tmp_path: Path) -> None:
        parent, updates = a_round(tmp_path)
        with pytest.raises(ValueError, match="secret"):
            aggregate(self.private(), parent, updates)

    @pytest.mark.parametrize("other", [{"strategy": Median()}, {"clip_norm": 1.0}])
    def test_it_is_offered_for_means_only_and_with_one_clip_norm(self, other: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="privacy"):
            AggregationConfig(privacy=PRIVACY, **other)
