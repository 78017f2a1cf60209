"""One side effect each, safe to repeat. Workflows call these; nothing else does.

Touch this room when the world has to be touched in a new way.
"""
