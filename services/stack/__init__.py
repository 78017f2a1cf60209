"""The stack of `make up`: real PostgreSQL and Temporal from wheels, and the supervisor of our own processes.

Nothing here reads the environment or settings; `manage.py` passes everything in. Touch it when the embedded
servers need another switch, or when starting, restarting or stopping processes should behave differently.
"""
