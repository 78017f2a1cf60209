"""SQL, one repository per aggregate; ``tables`` is the one schema.

Touch this room when a question to the database, or its shape, changes. Repositories never commit.
"""
