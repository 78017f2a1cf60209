"""The numbers of a model: weights, aggregation, training, prediction, and the client of a participant.

Touch this room for a new model family or a new way to aggregate. ``weights``, ``aggregation`` and ``privacy`` need
numpy alone; torch, scikit-learn and matplotlib come with the extra ``federated`` and are imported only by the modules
that need them.
"""
