"""What every process needs: settings, logging, telemetry, database, Temporal client, HTTP client, object store.

Touch this room when something has to hold for all families at once.
"""
