"""What the server carries from one round to the next: the moments of its optimizer, and the privacy spent."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from domain.federated import Strategy
from learning.optimizers import Moments, moment_schema
from learning.privacy import ORDERS, Ledger
from learning.weights import (
    BLOCK_VALUES,
    Block,
    BlockWriter,
    Schema,
    TensorSpec,
    WeightsRefused,
    block_reader,
    check_schema,
    decode,
    read_layout,
)

_LOSS = "privacy.rdp"
_LOSS_SPEC = TensorSpec("F64", (len(ORDERS),))


class ForeignState(Exception):
    """The state handed in is not one of this model."""


class ServerState:
    """The state that came with the parent, checked.

    Moments that another strategy left behind start anew; privacy, once spent, stays spent.
    """

    def __init__(self, strategy: Strategy, schema: Schema, before: bytes | None) -> None:
        self.strategy = strategy
        self.moments = moment_schema(strategy, schema)
        self.before: bytes | None = None
        """The bytes that hold moments of this strategy; none where there are none to go on from."""
        self.rounds = 0
        """Rounds made with this strategy."""
        self.ledger: Ledger | None = None
        """Privacy spent; none where no round was private."""
        if before is not None:
            self._restore(before)

    def _restore(self, before: bytes) -> None:
        """Raises :class:`ForeignState`."""
        try:
            layout = read_layout(before)
            moments = {name: spec for name, spec in layout.specs.items() if name != _LOSS}
            counts = [int(layout.metadata.get(key, "0")) for key in ("rounds", "private_rounds")]
            if layout.specs.get(_LOSS, _LOSS_SPEC) != _LOSS_SPEC:
                raise ForeignState("the privacy spent is kept at other orders")
            if layout.metadata.get("strategy") == self.strategy.name:
                check_schema(moments, self.moments)
                self.before, self.rounds = before, counts[0]
        except (WeightsRefused, ValueError) as fault:
            raise ForeignState(str(fault)) from fault
        if _LOSS in layout.specs:
            self.ledger = Ledger(decode(before)[_LOSS], counts[1])


class StateWriter:
    """The state that goes with the child: moments are handed out block by block and taken back changed."""

    def __init__(self, state: ServerState, ledger: Ledger | None) -> None:
        """``ledger`` has this round in it; none where no round was ever private."""
        self._schema = state.moments
        self._state = state
        schema = {**self._schema, **({_LOSS: _LOSS_SPEC} if ledger is not None else {})}
        self._writer = BlockWriter(schema, _metadata(state, ledger)) if schema else None
        self._buffer = bytearray(BLOCK_VALUES * 8)
        if ledger is not None and self._writer is not None:
            self._writer.view(Block(_LOSS, 0, len(ORDERS)))[...] = ledger.loss

    @property
    def rounds_before(self) -> int:
        """How many rounds the moments already hold."""
        return self._state.rounds

    def moments(self, block: Block) -> Moments:
        """The moments of ``block`` by their letter, as float64: those of the parent, or zeros."""
        letters = [letter for letter in "mv" if f"{letter}.{block.name}" in self._schema]
        return {letter: self._read(_moment(letter, block)) for letter in letters}

    def _read(self, block: Block) -> NDArray[np.float64]:
        if self._state.before is None:
            return np.zeros(block.end - block.begin)
        with block_reader(self._state.before) as reader:
            return reader.read(block, self._buffer).astype(np.float64)

    def keep(self, block: Block, moments: Moments) -> None:
        """Take back the moments of ``block``."""
        for letter, values in moments.items():
            assert self._writer is not None
            self._writer.view(_moment(letter, block))[...] = values

    def finish(self) -> bytes | None:
        """The bytes; none where there is nothing to remember."""
        return None if self._writer is None else self._writer.finish()


def _metadata(state: ServerState, ledger: Ledger | None) -> Mapping[str, str]:
    private_rounds = 0 if ledger is None else ledger.rounds
    return {
        "strategy": state.strategy.name,
        "rounds": str(state.rounds + 1),
        "private_rounds": str(private_rounds),
    }


def _moment(letter: str, block: Block) -> Block:
    return Block(f"{letter}.{block.name}", block.begin, block.end)
