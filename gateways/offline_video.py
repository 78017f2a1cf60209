"""Slide videos without any provider: ffmpeg, where it is installed, and pictures drawn here.

The same slides and narration give the same bytes on the same machine: one thread, no clock, no name of a program.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from domain.audio import MP3, WAV, NotAudio, read_audio
from domain.errors import Outcome, ProviderError, VideoUnavailable
from domain.video import FilmSlide, MadeVideo, spoken_seconds

PROGRAM: Final = "ffmpeg"
MAX_SECONDS: Final = 480.0
MAX_BYTES: Final = 536_870_912

_SIZES: Final = {"720p": (1_280, 720), "1080p": (1_920, 1_080)}
_FONTS: Final = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "C:/Windows/Fonts/arial.ttf",
)
_PAPER: Final = "#fbfaf7"
_INK: Final = "#1d2733"
_ACCENT: Final = "#1f5f8b"
_SHORTEST_SECONDS: Final = 3.0
_MOST_LINES: Final = 14
_LINE_CHARACTERS: Final = 68
_TITLE_CHARACTERS: Final = 42
_MOST_SAID_BYTES: Final = 65_536
_NO_GLYPH: Final = "\U0010ffff"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class OfflineVideoMaker:
    """A ``VideoMaker`` over a program on this machine. It costs nothing."""

    name = "offline"

    def __init__(
        self, *, program: str = PROGRAM, fonts: Sequence[str] = _FONTS, max_seconds: float = MAX_SECONDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:  # fmt: skip
        self._program = program
        self._fonts = tuple(fonts)
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes

    def fault(self, slides: tuple[FilmSlide, ...]) -> str | None:
        """Why there can be no video of these slides here, or None."""
        if shutil.which(self._program) is None:
            return f"{self._program} is not installed on this worker"
        if not slides:
            return "there are no slides to film"
        if self._font(slides, 20) is None:
            return "no font on this worker has the letters of the slides"
        return None

    @asynccontextmanager
    async def make(
        self, slides: tuple[FilmSlide, ...], *, narration: bytes | None, resolution: str
    ) -> AsyncIterator[MadeVideo]:
        """Film the slides; without a narration they are shown as long as they take to read, in silence."""
        fault = self.fault(slides)
        if fault is not None:
            raise VideoUnavailable(fault)
        with tempfile.TemporaryDirectory(prefix="longhaul-video-") as name:
            folder = Path(name)
            sound = None if narration is None else _sound_of(narration)
            seconds = shares(slides, None if sound is None else sound[1])
            await asyncio.to_thread(self._draw, slides, seconds, _SIZES[resolution], folder)
            if narration is not None and sound is not None:
                await asyncio.to_thread((folder / sound[0]).write_bytes, narration)
            film = folder / "film.mp4"
            await self._run(folder, None if sound is None else sound[0], sum(seconds), film)
            yield MadeVideo(file=film, seconds=round(sum(seconds), 3))

    # --- pictures -----------------------------------------------------------------------------------

    def _font(self, slides: tuple[FilmSlide, ...], size: int) -> Font | None:
        """A font that has every letter of the slides, as far as that can be told; None where there is none."""
        letters = {char for slide in slides for text in (slide.title, *slide.lines) for char in text if char.isalnum()}
        for path in self._fonts:
            if os.path.exists(path):  # noqa: PTH110 - a list of plain names
                font = ImageFont.truetype(path, size)
                if _has_all(font, letters):
                    return font
        built_in = ImageFont.load_default(size)
        return built_in if all(ord(char) < 0x100 for char in letters) else None  # noqa: PLR2004 - Latin-1

    def _draw(
        self, slides: tuple[FilmSlide, ...], seconds: Sequence[float], size: tuple[int, int], folder: Path
    ) -> None:
        width, height = size
        title_font, text_font = self._font(slides, height // 16), self._font(slides, height // 28)
        assert title_font is not None
        assert text_font is not None
        lines = ["ffconcat version 1.0"]
        for number, (slide, lasts) in enumerate(zip(slides, seconds, strict=True)):
            picture = Image.new("RGB", (width, height), _PAPER)
            draw = ImageDraw.Draw(picture)
            draw.rectangle((0, 0, width // 80, height), fill=_ACCENT)
            title = textwrap.wrap(slide.title, _TITLE_CHARACTERS)[:2]
            draw.multiline_text((width // 16, height // 12), "\n".join(title), font=title_font, fill=_ACCENT)
            draw.multiline_text(
                (width // 16, height // 3.2), "\n".join(_body(slide)), font=text_font, fill=_INK, spacing=height // 90
            )
            draw.text((width - width // 12, height - height // 14), f"{number + 1}/{len(slides)}", font=text_font,
                      fill=_ACCENT)  # fmt: skip
            file = f"slide-{number:03}.png"
            picture.save(folder / file, "PNG")
            lines += [f"file {file}", f"duration {lasts:.3f}"]
        # The last picture once more: otherwise its duration does not count.
        lines.append(f"file slide-{len(slides) - 1:03}.png")
        (folder / "slides.ffconcat").write_text("\n".join(lines) + "\n", encoding="utf-8")

    # --- the program --------------------------------------------------------------------------------

    async def _run(self, folder: Path, sound: str | None, seconds: float, film: Path) -> None:
        source = ["-f", "lavfi", "-i", "anullsrc=r=44100:cl=mono"] if sound is None else ["-i", sound]
        # No shell, and nothing of our environment but where programs are.
        process = await asyncio.create_subprocess_exec(
            shutil.which(self._program) or self._program, "-nostdin", "-hide_banner", "-loglevel", "error", "-y",
            "-f", "concat", "-safe", "1", "-i", "slides.ffconcat", *source,
            "-map", "0:v:0", "-map", "1:a:0", "-t", f"{seconds:.3f}", "-r", "10",
            "-c:v", "libx264", "-preset", "veryfast", "-tune", "stillimage", "-pix_fmt", "yuv420p",
            "-c:a", "aac", "-b:a", "96k", "-threads", "1",
            "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact",
            "-movflags", "+faststart", "-fs", str(self._max_bytes), film.name,
            cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        assert process.stderr is not None
        try:
            async with asyncio.timeout(self._max_seconds):
                # What the program says may name files of this machine: it is read so that it does not block, and lost.
                await process.stderr.read(_MOST_SAID_BYTES)
                code = await process.wait()
        except TimeoutError:
            raise _failed(f"no end after {self._max_seconds:g} seconds", may_retry=True) from None
        finally:
            # Also when we are canceled: nobody waits for it any more.
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    process.kill()
                await process.wait()
        size = await asyncio.to_thread(_size_of, film)
        if code or not size:
            raise _failed(f"it ended with status {code}", may_retry=code < 0)
        if size >= self._max_bytes:
            raise _failed(f"the video is larger than {self._max_bytes} bytes")


def shares(slides: tuple[FilmSlide, ...], whole: float | None) -> tuple[float, ...]:
    """For how many seconds each slide is shown: of the narration by how much is said, otherwise as it takes to read."""
    said = [spoken_seconds(slide.said or " ".join((slide.title, *slide.lines))) for slide in slides]
    if whole is None:
        return tuple(max(_SHORTEST_SECONDS, seconds) for seconds in said)
    total = sum(said) or 1.0
    return tuple(max(0.2, whole * seconds / total) for seconds in said)


def _body(slide: FilmSlide) -> list[str]:
    lines: list[str] = []
    for text in slide.lines:
        first, *rest = textwrap.wrap(text, _LINE_CHARACTERS) or [""]
        lines += [f"\N{BULLET} {first}", *(f"   {line}" for line in rest)]
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], "\N{HORIZONTAL ELLIPSIS}"]


def _has_all(font: ImageFont.FreeTypeFont, letters: set[str]) -> bool:
    """Whether the font draws each letter as something else than what it draws for letters it does not have."""
    nothing = bytes(font.getmask(_NO_GLYPH))
    return all(bytes(font.getmask(letter)) != nothing for letter in letters)


def _sound_of(narration: bytes) -> tuple[str, float]:
    """The name for a file with this recording, and how many seconds it lasts."""
    media_type, name = (WAV, "sound.wav") if narration[:4] == b"RIFF" else (MP3, "sound.mp3")
    try:
        return name, read_audio(narration, media_type).seconds
    except NotAudio as fault:
        raise _failed(f"the narration cannot be read: {fault}") from None


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _failed(detail: str, *, may_retry: bool = False) -> ProviderError:
    return ProviderError(
        f"video program: {detail}", code="E.VIDEO.FAILED", outcome=Outcome.NOT_SENT, retryable=may_retry
    )
