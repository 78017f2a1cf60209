import sys
from pathlib import Path

import pytest

from activities.federated.report import RoundFigures, no_plot
from domain.errors import InvalidInput, NoRuntime
from learning.weights import decode
from services.demo.federated import make_samples
from services.federated.runtime import FamilyRuntime, create_plotter, read_samples


def figures(number: int, leased: int = 10, **metrics: float) -> RoundFigures:
    state = "published" if metrics else "abandoned"
    return RoundFigures(number=number, leased=leased, accepted=8, state=state, metrics=metrics)


class TestPlot:
    def test_png_and_svg(self) -> None:
        pytest.importorskip("matplotlib")
        rounds = [figures(1, accuracy=0.5), figures(2), figures(3, reported_accuracy=0.7)]
        png, svg = create_plotter()("toy", rounds)
        assert (png.name, png.media_type, png.body[:4]) == ("rounds.png", "image/png", b"\x89PNG")
        assert (svg.name, svg.media_type) == ("rounds.svg", "image/svg+xml")
        assert b"<svg" in svg.body

    def test_more_places_are_a_longer_bar(self) -> None:
        pytest.importorskip("matplotlib")
        few, many = (create_plotter()("toy", [figures(1, leased=leased, accuracy=0.5)])[1] for leased in (9, 13))
        assert few.body != many.body

    def test_nothing_without_matplotlib(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "learning.plots", None)
        assert create_plotter() is no_plot
        assert no_plot("toy", [figures(1)]) == ()


class TestFamilies:
    def test_initial_weights_follow_the_seed(self) -> None:
        runtime = FamilyRuntime()
        assert runtime.initial("digits", seed=1) == runtime.initial("digits", seed=1)
        assert runtime.initial("digits", seed=1) != runtime.initial("digits", seed=2)
        assert decode(runtime.initial("digits", seed=1))

    def test_another_head_is_another_answer(self, tmp_path: Path) -> None:
        """What is kept of one head is never used for the next."""
        runtime, sample = FamilyRuntime(), make_samples(seed=1, count=1)[0]
        answers = []
        for seed in range(6):
            file = tmp_path / f"digest-{seed}"
            file.write_bytes(runtime.initial("digits", seed=seed))
            answers.append(runtime.predict("tenant/digits", "digits", file, [{"pixels": sample["pixels"]}])[0])
        assert len({str(answer) for answer in answers}) > 1

    def test_unknown_and_custom(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput):
            FamilyRuntime().initial("nix", seed=0)
        with pytest.raises(NoRuntime):
            FamilyRuntime().predict("m", "custom", tmp_path, [])

    @pytest.mark.parametrize("body", [b"", b"\n\n", b"[1]\n", b"{}\n{nonsense\n"])
    def test_files_that_are_no_samples(self, tmp_path: Path, body: bytes) -> None:
        file = tmp_path / "samples"
        file.write_bytes(body)
        with pytest.raises(InvalidInput):
            read_samples(file)
