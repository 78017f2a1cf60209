"""Use cases that are not HTTP: start a job, cancel it, dispatch, reconcile, schedule, take in records.

Touch it when a use case spans repositories and Temporal; what only answers a request belongs to `api`.
"""
