"""Order, waiting, retry, cancellation: the business processes, deterministic and light.

Touch this room when the course of a job changes; with live runs that means patching, and the replay tests decide.
"""
