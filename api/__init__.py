"""HTTP: routes, schemas, keys at the door, problem documents, streaming.

Touch this room when the contract with clients changes. A new family is one module in ``routes`` and one line in
``app.py``.
"""
