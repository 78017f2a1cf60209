"""What is claimed about speed, measured: ``python -m benchmarks [names...] [--quick]``.

Every number that matters is a ratio of two things measured alternately on the same machine in the same minutes, and
is printed beside its target. Touch this room when something new is claimed, or when a claim has to be measured more
fairly. ``README.md`` has the numbers as last measured.
"""
