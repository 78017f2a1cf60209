"""Federated learning without its arithmetic: the registry, participants and their leases, updates and receipts."""
