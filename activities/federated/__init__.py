"""The steps of ``federated.cycle``."""
