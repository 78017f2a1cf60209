"""From the points of a touch screen to the features of the network."""

from itertools import pairwise
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, field_validator

from learning.swipe.keyboard import HEIGHT, WIDTH, vocabulary

STEPS: Final = 24
"""Points a swipe is resampled to, evenly along its way."""
FEATURES: Final = 7
"""Time, x, y, speed, direction (sine and cosine) and length of the way so far."""

_MOST_POINTS: Final = 2_000
_Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e9)]


class SwipeInput(BaseModel):
    """A swipe: milliseconds since it began, x and y in keys (see ``keyboard``), in the order of time."""

    points: Annotated[tuple[tuple[_Number, _Number, _Number], ...], Field(min_length=2, max_length=_MOST_POINTS)]

    @field_validator("points")
    @classmethod
    def _in_order(cls, points: tuple[tuple[float, float, float], ...]) -> tuple[tuple[float, float, float], ...]:
        if any(after[0] < before[0] for before, after in pairwise(points)):
            raise ValueError("time goes backwards")
        return points


class SwipeSample(SwipeInput):
    """A swipe and the word that was meant."""

    word: str

    @field_validator("word")
    @classmethod
    def _known(cls, word: str) -> str:
        if word not in vocabulary():
            raise ValueError("the word is not in the vocabulary")
        return word


def features(swipe: SwipeInput) -> NDArray[np.float32]:
    """``STEPS`` rows of ``FEATURES`` numbers around zero."""
    points = np.array(swipe.points, np.float64)
    times, places = points[:, 0] - points[0, 0], points[:, 1:]
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    marks = np.linspace(0, way[-1], STEPS)
    # A finger that rests makes equal marks, which np.interp takes as they come.
    x, y, time = (np.interp(marks, way, values) for values in (places[:, 0], places[:, 1], times))
    seconds = np.maximum(np.gradient(time) / 1_000, 1e-3)
    dx, dy = np.gradient(x), np.gradient(y)
    step = np.hypot(dx, dy)
    direction = np.maximum(step, 1e-6)
    rows = np.stack(
        [
            time / 1_000 - 0.5,
            2 * x / WIDTH - 1,
            2 * y / HEIGHT - 1,
            np.tanh(step / seconds / 20),
            dy / direction,
            dx / direction,
            marks / 10 - 0.5,
        ],
        axis=1,
    )
    return rows.astype(np.float32)
