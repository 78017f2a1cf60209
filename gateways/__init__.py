"""One module for each outside system, each with an embedded stand-in behind the same port.

Touch this room when a vendor's protocol changes, or a new vendor comes behind an existing port.
"""
