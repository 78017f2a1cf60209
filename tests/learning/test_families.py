"""The model families: what each promises, and that nothing but those that need it imports torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learning.digits.data import load_samples
from learning.families import FAMILIES, NoRuntime, UnknownFamily, get_family
from learning.family import BadSample, Sample
from learning.inference import Inference
from learning.swipe.keyboard import KEYS, vocabulary
from learning.swipe.preprocessing import FEATURES, STEPS, SwipeInput, features
from learning.swipe.synthetic import make_samples
from learning.weights import encode, schema_of

ROOT = Path(__file__).parents[2]


def some_samples(family: str) -> list[Sample]:
    if family == "digits":
        return load_samples()[0][:40]
    return make_samples(vocabulary()[:20], 2, seed=1)


def without_answer(sample: Sample) -> Sample:
    return {name: value for name, value in sample.items() if name in {"pixels", "points"}}


@pytest.mark.parametrize("name", FAMILIES)
class TestEveryFamily:
    def test_a_seed_makes_weights(self, name: str) -> None:
        family = get_family(name)
        assert encode(family.init_weights(3)) == encode(family.init_weights(3))
        assert encode(family.init_weights(3)) != encode(family.init_weights(4))

    def test_training_is_reproducible_keeps_the_schema_and_leaves_its_input_alone(self, name: str) -> None:
        family, samples = get_family(name), some_samples(name)
        parent = family.init_weights(0)
        before = encode(parent)
        first = family.train(parent, samples, {"epochs": 1, "seed": 5})
        again = family.train(parent, samples, {"epochs": 1, "seed": 5})
        other = family.train(parent, samples, {"epochs": 1, "seed": 6})
        assert encode(parent) == before
        assert encode(first.weights) == encode(again.weights) != encode(other.weights)
        assert schema_of(first.weights) == schema_of(parent)
        assert first.examples == 40

    def test_training_lowers_the_loss_on_its_own_samples(self, name: str) -> None:
        family, samples = get_family(name), some_samples(name)
        parent = family.init_weights(0)
        trained = family.train(parent, samples, {"epochs": 15}).weights
        before, after = family.evaluate(parent, samples), family.evaluate(trained, samples)
        assert after["loss"] < before["loss"] * 0.8
        assert after["accuracy"] > before["accuracy"]

    def test_it_predicts_one_answer_for_each_input(self, name: str) -> None:
        family = get_family(name)
        inputs = [without_answer(sample) for sample in some_samples(name)[:3]]
        assert len(family.predict(family.init_weights(0), inputs)) == 3
        assert family.predict(family.init_weights(0), []) == []

    @pytest.mark.parametrize("samples", [[], [{}], [{"pixels": [1e9] * 64, "digit": 1, "points": [], "word": "you"}]])
    def test_bad_samples_are_refused(self, name: str, samples: list[Sample]) -> None:
        family = get_family(name)
        with pytest.raises(BadSample):
            family.train(family.init_weights(0), samples, {})
        with pytest.raises(BadSample):
            family.evaluate(family.init_weights(0), samples)

    @pytest.mark.parametrize("plan", [{"epochs": 0}, {"learning_rate": -1}, {"typo": 1}, {"batch_size": "many"}])
    def test_bad_hyperparameters_are_refused(self, name: str, plan: dict[str, Any]) -> None:
        family = get_family(name)
        with pytest.raises(BadSample, match="hyperparameters"):
            family.train(family.init_weights(0), some_samples(name), plan)


class TestSwipes:
    def test_a_swipe_passes_near_the_keys_of_its_word(self) -> None:
        for sample in make_samples(vocabulary()[:30], 1, seed=2):
            places = np.array(sample["points"])[:, 1:]
            for letter in (sample["word"][0], sample["word"][-1]):
                assert np.linalg.norm(places - KEYS[letter], axis=1).min() < 1.5

    def test_people_differ_and_seeds_do_not(self) -> None:
        assert make_samples(["hello"], 1, seed=1) == make_samples(["hello"], 1, seed=1)
        assert make_samples(["hello"], 1, seed=1) != make_samples(["hello"], 1, seed=2)

    def test_time_goes_forward(self) -> None:
        for sample in make_samples(vocabulary(), 1, seed=3):
            times = [point[0] for point in sample["points"]]
            assert times == sorted(times)

    def test_the_vocabulary_has_two_hundred_different_words_on_the_keyboard(self) -> None:
        words = vocabulary()
        assert len(set(words)) == len(words) == 200
        assert set("".join(words)) <= KEYS.keys()

    @pytest.mark.parametrize(
        "points",
        [
            [[0, 1, 1], [0, 1, 1]],
            [[0, 1, 1], [10, 1, 1], [20, 9, 2]],
            [[0, 0.5, 0.5], [1e6, 1e6, -1e6]],
        ],
    )
    def test_odd_swipes_have_finite_features(self, points: Any) -> None:
        rows = features(SwipeInput(points=points))
        assert rows.shape == (STEPS, FEATURES)
        assert np.isfinite(rows).all()

    @pytest.mark.parametrize(
        "points", [[[0, 1, 1]], [[5, 1, 1], [4, 2, 2]], [[0, 1, float("nan")], [1, 1, 1]], [[0, 0, 0]] * 2_001]
    )
    def test_impossible_swipes_are_refused(self, points: Any) -> None:
        family = get_family("swipe")
        with pytest.raises(BadSample):
            family.predict(family.init_weights(0), [{"points": points}])

    def test_predictions_are_ranked_words(self) -> None:
        family = get_family("swipe")
        question = {**without_answer(make_samples(["you"], 1, seed=1)[0]), "top": 5}
        (answer,) = family.predict(family.init_weights(0), [question])
        chances = [guess["probability"] for guess in answer["words"]]
        assert chances == sorted(chances, reverse=True)
        assert len({guess["word"] for guess in answer["words"]} & set(vocabulary())) == 5


class TestRegistry:
    def test_an_unknown_family_is_told(self) -> None:
        with pytest.raises(UnknownFamily):
            get_family("unheard-of")

    def test_a_family_without_its_libraries_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing() -> Any:
            raise ModuleNotFoundError(name="torch")

        monkeypatch.setitem(FAMILIES, "heavy", missing)
        with pytest.raises(NoRuntime, match="torch"):
            get_family("heavy")


class TestInference:
    def test_a_version_is_read_once_and_replaced_by_the_next(self) -> None:
        family, reads = get_family("digits"), []
        versions = {str(seed): encode(family.init_weights(seed)) for seed in range(2)}
        inference = Inference()
        question = [without_answer(some_samples("digits")[0])]

        def ask(version: str) -> Any:
            def read() -> bytes:
                reads.append(version)
                return versions[version]

            return inference.predict("model", "digits", version, read, question)

        first, again, second = ask("0"), ask("0"), ask("1")
        assert first == again != second
        assert reads == ["0", "1"]


class TestImports:
    """What runs without the extra must not need it."""

    def loaded(self, *modules: str) -> set[str]:
        program = f"import {', '.join(modules)}, sys; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
        return set(done.stdout.split())

    def test_the_api_imports_no_learning_library(self) -> None:
        found = self.loaded("api.app")
        assert not found & {"torch", "sklearn", "scipy", "matplotlib"}
        assert not {name for name in found if name.startswith(("learning.swipe", "learning.plots"))}

    def test_aggregation_participant_and_inference_import_numpy_at_most(self) -> None:
        found = self.loaded(
            "learning.aggregation", "learning.families", "learning.inference", "learning.simulation",
            "learning.digits.family", "learning.participant.client", "learning.swipe.synthetic",
            "learning.swipe.preprocessing",
        )  # fmt: skip
        assert "numpy" in found
        assert not found & {"torch", "sklearn", "scipy", "matplotlib"}
