"""The client of a participant: trains on samples that never leave it and hands in nothing but weights.

``python -m learning.participant --help``. Needs no database, no Temporal and nothing of the server but its HTTP API.
"""
