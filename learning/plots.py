"""Pictures of a cycle. The same numbers give the same bytes, so that artifacts can be compared by digest."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

_BLUE: Final = "#1f5fa8"
_GREY: Final = "#b9c2cc"
_RED: Final = "#b3372f"


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """What is drawn of one round. ``accuracy`` is missing where the round was abandoned."""

    number: int
    accuracy: float | None
    """Of the model after the round, 0 to 1."""
    selected: int
    accepted: int


def plot_rounds(rounds: Sequence[RoundFigures], title: str, *, form: Literal["png", "svg"]) -> bytes:
    """Accuracy and participation per round, as a picture of the given form."""
    # Ids in an SVG are salted, and the date would be that of drawing: neither may differ from one call to the next.
    with mpl.rc_context({"svg.hashsalt": "longhaul", "svg.fonttype": "path"}):
        figure = _figure(rounds, title)
        out = io.BytesIO()
        if form == "png":
            FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})  # type: ignore[no-untyped-call]
        else:
            FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
        return out.getvalue()


def _figure(rounds: Sequence[RoundFigures], title: str) -> Figure:
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    done = [one for one in rounds if one.accuracy is not None]
    above.plot(
        [one.number for one in done], [one.accuracy or 0.0 for one in done], color=_BLUE, marker="o", markersize=3
    )
    above.set_title(title)
    above.set_ylabel("accuracy")
    above.set_ylim(0, 1.03)
    above.yaxis.set_major_formatter(PercentFormatter(1.0))
    above.grid(visible=True, alpha=0.3)
    numbers = [one.number for one in rounds]
    below.bar(numbers, [one.selected for one in rounds], color=_GREY, label="selected")
    colours = [_RED if one.accuracy is None else _BLUE for one in rounds]
    below.bar(numbers, [one.accepted for one in rounds], color=colours, width=0.5, label="accepted (red: abandoned)")
    below.set_xlabel("round")
    below.set_ylabel("participants")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    return figure
