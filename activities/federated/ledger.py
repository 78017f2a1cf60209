"""What the rounds of a model have spent of its participants' privacy: kept with the model, whatever became of them."""

import numpy as np

from domain.federated import DifferentialPrivacy
from learning.privacy import Ledger, round_loss
from repositories.federated.registry import RegistryRepository
from repositories.rows import AnyRow


def spent_on(model: AnyRow) -> Ledger:
    """What was spent on this model so far."""
    if model.privacy_loss is None:
        return Ledger()
    return Ledger(np.array(model.privacy_loss, np.float64), model.privacy_rounds)


async def spend(registry: RegistryRepository, name: str, privacy: DifferentialPrivacy) -> None:
    """Count one more round, in the transaction that keeps what it made: from there on it can be looked at.

    It stays spent where the gate rejects the version, another becomes the head, or the head is rolled back.
    """
    before = spent_on(await registry.lock_model(name))
    after = before.after(round_loss(privacy.noise_multiplier, privacy.sampling_rate))
    await registry.set_spent(name, loss=after.loss.tolist(), rounds=after.rounds)
