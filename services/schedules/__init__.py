"""Schedules: use cases of tenants, telling Temporal, and what a run does to start its job.

A schedule is a row first. The request tells Temporal at once where that works; otherwise the keeper of a worker process
does, as soon as it can.
"""
