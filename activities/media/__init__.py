"""Recordings of lessons."""
