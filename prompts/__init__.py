"""Prompt texts: each with id, version, owner and changelog, and one typed ``render``.

Touch this room to change wording. A changed text needs a new version; a process with a changed text under an old
version refuses to start.
"""
