"""What the video of a lesson is made from: its script or its slides, and where the video belongs."""

from dataclasses import dataclass
from uuid import UUID

from activities.steps import input_hash
from domain.course_graph import below, lesson_key
from domain.generation import Lesson, LessonContent, SlideDeck, VideoWish
from domain.jobs import JobRef
from domain.media import pieces_of
from domain.video import FilmSlide, FilmWish, VideoRenderer
from rendering.lesson_script import SCRIPT_VERSION, lesson_script, sentence

_MOST_LINES = 8


@dataclass(frozen=True, slots=True)
class Film:
    """The video of one lesson of a course. ``digest`` covers everything that it depends on.

    ``voice`` and ``engine`` are who speaks and what renders; ``shortened`` says that the script is longer than the
    renderer takes, so that the video ends early.
    """

    job: JobRef
    course_id: UUID
    step: str
    module: int
    lesson: int
    title: str
    provider: str
    script: str
    digest: str
    voice: str = ""
    engine: str = ""
    shortened: bool = False

    @property
    def key(self) -> str:
        """The node of the course graph."""
        return below(lesson_key(self.module, self.lesson), "video")

    @property
    def place(self) -> str:
        """The lesson as events name it."""
        return f"{self.module + 1}.{self.lesson + 1}"

    def file(self, ending: str, more: str = "") -> str:
        """The name of a file beside the lesson's own."""
        return f"lessons/{self.module + 1:02}-{self.lesson + 1:02}{more}.{ending}"


def spoken_script(content: LessonContent, *, language: str, longest: int) -> tuple[str, bool]:
    """What is said in a video, cut between paragraphs or sentences where it is too long; and whether it was cut."""
    whole = lesson_script(content, language=language)
    pieces = pieces_of(whole, longest=longest)
    return (pieces[0] if pieces else ""), len(pieces) > 1


def film_wish(wish: VideoWish, renderer: VideoRenderer, script: str) -> FilmWish | None:
    """What is asked of a renderer; None where neither the job nor the settings say which avatar speaks."""
    avatar = wish.avatar or renderer.default_avatar
    if avatar is None:
        return None
    engine = wish.engine or renderer.default_engine
    return FilmWish(script=script, avatar=avatar, voice=None, engine=engine, resolution=wish.resolution)


def rendered_digest(provider: str, wish: FilmWish) -> str:
    """Everything that a rendered video depends on."""
    return input_hash("video", SCRIPT_VERSION, provider, wish.model_dump(mode="json"))


def slides_digest(slides: tuple[FilmSlide, ...], narration_sha256: str | None, resolution: str) -> str:
    """Everything that a slide video depends on."""
    shown = [slide.model_dump(mode="json") for slide in slides]
    return input_hash("slide-video", shown, narration_sha256, resolution)


def film_slides(lesson: Lesson, deck: SlideDeck | None) -> tuple[FilmSlide, ...]:
    """The pictures of a slide video: those of the deck where there is one, otherwise the lesson's own blocks."""
    if deck is not None:
        return tuple(
            FilmSlide(title=slide.title, lines=slide.bullets, said=sentence(slide.notes)) for slide in deck.slides
        )
    content = lesson.content
    if content is None:
        return ()
    opening = FilmSlide(title=content.title, lines=(content.summary,), said=sentence(content.summary))
    blocks = (
        FilmSlide(
            title=block.heading,
            lines=(block.bullets or block.paragraphs)[:_MOST_LINES],
            said=" ".join(sentence(text) for text in (*block.paragraphs, *block.bullets)),
        )
        for block in content.blocks
    )
    ending = FilmSlide(title=content.title, lines=content.key_points[:_MOST_LINES], said="")
    return (opening, *blocks, ending)
