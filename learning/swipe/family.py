"""SwipeLSTM as a model family: training, evaluation and prediction, on a GPU where there is one."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from learning.family import BadSample, Hyperparameters, Metrics, Sample, Trained, batches, parse
from learning.swipe.keyboard import vocabulary
from learning.swipe.model import SwipeLSTM, best_device, to_model, to_weights
from learning.swipe.preprocessing import FEATURES, STEPS, SwipeInput, SwipeSample, features
from learning.weights import Weights


class SwipeHyperparameters(Hyperparameters):
    """Adam, with gradients clipped: the moments live for one round on one participant."""

    epochs: Annotated[int, Field(ge=1, le=1_000)] = 3
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.005
    gradient_norm: Annotated[float, Field(gt=0)] = 1.0


class SwipeInputWithTop(SwipeInput):
    """A swipe to tell the word of; ``top`` says how many words are wanted."""

    top: Annotated[int, Field(ge=1, le=20)] = 3


class SwipeFamily:
    """Words from swipes. Results are reproducible on one kind of device, not from one kind to another."""

    name = "swipe"

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device or best_device()
        # The matrices are small: threads would wait for each other more than they work, many times over on a busy
        # machine, and the order of sums, so the last bits of the weights, would depend on their number.
        torch.set_num_threads(1)

    def init_weights(self, seed: int) -> Weights:
        """Torch's own initialisation, the same for the same ``seed`` and without touching the global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return to_weights(SwipeLSTM())

    def train(self, weights: Weights, samples: Sequence[Sample], hyperparameters: Mapping[str, Any]) -> Trained:
        """Train a copy of ``weights``. Raises :class:`BadSample`."""
        plan = parse(SwipeHyperparameters, hyperparameters, "hyperparameters")
        rows, words = self._tensors(samples)
        model, generator, total = to_model(weights, self._device).train(), np.random.default_rng(plan.seed), 0.0
        optimizer = torch.optim.Adam(model.parameters(), lr=plan.learning_rate)
        for _ in range(plan.epochs):
            total = 0.0
            for batch in batches(len(words), plan.batch_size, generator):
                chosen = torch.from_numpy(batch).to(self._device)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(rows[chosen]), words[chosen])
                loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
                nn.utils.clip_grad_norm_(model.parameters(), plan.gradient_norm)
                optimizer.step()
                total += loss.item() * len(batch)
        return Trained(to_weights(model), len(words), total / len(words))

    def evaluate(self, weights: Weights, holdout: Sequence[Sample]) -> Metrics:
        """Accuracy of the first guess and of the first three, and loss. Raises :class:`BadSample`."""
        rows, words = self._tensors(holdout)
        scores = self._scores(weights, rows)
        best = scores.topk(3).indices == words[:, None]
        return {
            "accuracy": best[:, 0].float().mean().item(),
            "accuracy_top_3": best.any(dim=1).float().mean().item(),
            "loss": nn.functional.cross_entropy(scores, words).item(),
            "samples": float(len(words)),
        }

    def predict(self, weights: Weights, inputs: Sequence[Sample]) -> list[dict[str, Any]]:
        """The likeliest words with their probabilities, best first. Raises :class:`BadSample`."""
        swipes = [parse(SwipeInputWithTop, value, f"input {number}") for number, value in enumerate(inputs)]
        if not swipes:
            return []
        chances = self._scores(weights, self._rows(swipes)).softmax(dim=1).cpu()
        names = vocabulary()
        answers = []
        for swipe, row in zip(swipes, chances, strict=True):
            best = row.topk(swipe.top)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            answers.append({"words": [{"word": names[index], "probability": chance} for index, chance in pairs]})
        return answers

    def _scores(self, weights: Weights, rows: Tensor) -> Tensor:
        model = to_model(weights, self._device).eval()
        with torch.inference_mode():
            return torch.cat([model(part) for part in torch.split(rows, 512)])

    def _rows(self, swipes: Sequence[SwipeInput]) -> Tensor:
        table: NDArray[np.float32] = np.stack([features(swipe) for swipe in swipes])
        assert table.shape[1:] == (STEPS, FEATURES)
        return torch.from_numpy(table).to(self._device)

    def _tensors(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        if not samples:
            raise BadSample("there are no samples")
        parsed = [parse(SwipeSample, sample, f"sample {number}") for number, sample in enumerate(samples)]
        places = {word: index for index, word in enumerate(vocabulary())}
        words = torch.tensor([places[sample.word] for sample in parsed], device=self._device)
        return self._rows(parsed), words
