"""The scene of generation: courses on Longhaul, made from Longhaul's own documents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from domain.generation import Export
from services.demo.front_end import FrontEnd

_ROOT: Final = Path(__file__).resolve().parents[2]
_DOCUMENTS: Final = ("README.md", "docs/architecture.md", "docs/life-of-a-job.md")


async def play(front_end: FrontEnd) -> None:
    """A course by the offline model, and one by the stand-in where it runs."""
    await _course(front_end, "A course on Longhaul, from Longhaul's own documents", {})
    if front_end.settings.standin_openai:
        await _course(front_end, "The same from a (stand-in) language model", {"provider": "openai"})


async def _course(front_end: FrontEnd, title: str, more: Mapping[str, Any]) -> None:
    sources = [{"name": name, "text": (_ROOT / name).read_text()} for name in _DOCUMENTS]
    wish = {
        "topic": "Longhaul, the durable job back end", "audience": "developers and operators", "language": "en",
        "level": "beginner", "modules": 3, "lessons_per_module": 3, "sources": sources,
        "exports": [export.value for export in Export], "slides": True, "quiz": True,
        "speech": {"provider": "offline"}, **more,
    }  # fmt: skip
    job = await front_end.play(title, "generation.course", wish)
    result = await front_end.ask(job["links"]["result"])
    slides, quiz = result["slides"], result["quiz"]
    print(f"  slides: {slides['total']}, of which with a table: {slides['figures']}; questions: {quiz['questions']}")
    for artifact in result["artifacts"]:
        await front_end.download(artifact)
    await _tell_of_speech(front_end, result)


async def _tell_of_speech(front_end: FrontEnd, result: Mapping[str, Any]) -> None:
    """Where to hear the first lesson, or why nothing is to be heard."""
    if "audio" not in result:
        print("  speech     none: espeak-ng is not installed here, so the lessons went without a recording")
        return
    course = await front_end.ask(next(one["url"] for one in result["artifacts"] if one["name"].endswith(".json")))
    lessons = [lesson for module in course["modules"] for lesson in module["lessons"]]
    first = next(lesson["audio"] for lesson in lessons if "audio" in lesson)
    said = result["audio"]
    print(f"  speech     {said['lessons']} lessons, {said['seconds']:.0f} s; the first: {first['url']}")
    await front_end.download({**first, "name": "first-lesson.wav"})
