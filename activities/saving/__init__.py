"""Bringing records home, and reading whole files in. Touch it for a new effect on records."""
