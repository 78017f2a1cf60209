"""SwipeLSTM: a recurrent network that reads a swipe and says which word it was."""

from collections.abc import Mapping
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from learning.swipe.keyboard import vocabulary
from learning.swipe.preprocessing import FEATURES
from learning.weights import Weights

HIDDEN: Final = 64


class SwipeLSTM(nn.Module):
    """Features (batch, steps, ``FEATURES``) in, a score for each word of the vocabulary out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.output = nn.Linear(2 * HIDDEN, len(vocabulary()))

    def forward(self, rows: Tensor) -> Tensor:
        """Scores, not normalised."""
        states, _ = self.lstm(rows)
        seen = torch.cat([states[:, -1], states.mean(dim=1)], dim=1)
        return cast(Tensor, self.output(seen))


def best_device() -> torch.device:
    """The first CUDA device where there is one, Apple's where there is that, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def to_model(weights: Weights, device: torch.device) -> SwipeLSTM:
    """A network with these weights; they are copied."""
    model = SwipeLSTM()
    model.load_state_dict({name: torch.from_numpy(np.array(value, np.float32)) for name, value in weights.items()})
    return model.to(device)


def to_weights(model: nn.Module) -> Weights:
    """The weights of a network, copied to the processor's memory."""
    state: Mapping[str, Tensor] = model.state_dict()
    return {name: value.detach().cpu().numpy().copy() for name, value in state.items()}
