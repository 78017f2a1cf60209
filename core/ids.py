"""Identifiers: UUIDv7, which sort by the time they were made."""

from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """A fresh UUIDv7 (RFC 9562): unique, and later ones sort after earlier ones to the millisecond."""
    return uuid_utils.compat.uuid7()
