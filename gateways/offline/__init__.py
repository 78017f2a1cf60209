"""The embedded stand-in for a language model: deterministic, free, without a network, extractive.

Touch this room when courses made without a model read badly.
"""

from gateways.offline.model import OfflineLanguageModel

__all__ = ["OfflineLanguageModel"]
