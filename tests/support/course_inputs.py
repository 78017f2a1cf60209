"""Inputs of courses for tests."""

from typing import Any

from domain.generation import CourseInput


def wanted(**changes: Any) -> CourseInput:
    """The smallest wish for a course."""
    return CourseInput.model_validate({"topic": "Tides", **changes})
