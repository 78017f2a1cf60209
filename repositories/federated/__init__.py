"""Federated learning: the registry of models, and rounds with their leases."""
