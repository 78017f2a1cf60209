"""The picture of a cycle."""

from xml.etree import ElementTree as ET

import pytest

from learning.plots import RoundFigures, plot_rounds

ROUNDS = [RoundFigures(number, None if number == 3 else 0.1 * number, 13, 10 - number) for number in range(1, 8)]


def test_a_png_is_a_png() -> None:
    assert plot_rounds(ROUNDS, "digits", form="png").startswith(b"\x89PNG\r\n\x1a\n")


def test_an_svg_is_well_formed() -> None:
    root = ET.fromstring(plot_rounds(ROUNDS, "digits <&>", form="svg"))  # noqa: S314 - our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("form", ["png", "svg"])
def test_equal_figures_give_equal_bytes_and_others_do_not(form: str) -> None:
    first = plot_rounds(ROUNDS, "digits", form=form)  # type: ignore[arg-type] # the two there are
    assert plot_rounds(ROUNDS, "digits", form=form) == first  # type: ignore[arg-type] # see above
    assert plot_rounds(ROUNDS[:-1], "digits", form=form) != first  # type: ignore[arg-type] # see above


def test_no_rounds_are_drawn_too() -> None:
    assert plot_rounds([], "nothing yet", form="png")
