"""Slide videos by a program of this machine, judged by its own inspector of files."""

import asyncio
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from domain.audio import wav_of
from domain.errors import ProviderError, VideoUnavailable
from domain.video import FilmSlide, spoken_seconds
from gateways.offline_video import OfflineVideoMaker, shares

SLIDES = (
    FilmSlide(title="How tides come about", lines=("The moon pulls.", "The earth turns."), said="x" * 140),
    FilmSlide(title="Spring and neap", lines=("Sun and moon in a line " * 8,), said="x" * 70),
)
RUSSIAN = (FilmSlide(title="Приливы", lines=("Луна притягивает воду",), said="Луна."),)
needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None,
    reason="ffmpeg and ffprobe are not installed: no slide video can be made and looked at here",
)


def narration_of(seconds: float) -> bytes:
    """Silence, as a recording."""
    layout = struct.pack("<HHIIHH", 1, 1, 8_000, 16_000, 2, 16)
    return wav_of(b"\0\0" * int(8_000 * seconds), layout)


async def inspected(file: Path) -> dict[str, Any]:
    """What ffprobe says of a file."""
    process = await asyncio.create_subprocess_exec(
        "ffprobe", "-v", "error", "-show_format", "-show_streams", "-of", "json", str(file),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    found: dict[str, Any] = json.loads(said)
    return found


class TestShares:
    def test_of_a_narration_by_what_is_said(self) -> None:
        assert shares(SLIDES, 30.0) == pytest.approx((20.0, 10.0))

    def test_without_one_as_long_as_reading_takes(self) -> None:
        assert shares(SLIDES, None) == pytest.approx((10.0, 5.0))
        silent = (SLIDES[0].model_copy(update={"said": ""}),)
        text = "How tides come about The moon pulls. The earth turns."
        assert shares(silent, None) == pytest.approx((spoken_seconds(text),))


class TestNotAvailable:
    async def test_without_the_program(self) -> None:
        maker = OfflineVideoMaker(program="no-such-program")
        assert maker.fault(SLIDES) == "no-such-program is not installed on this worker"
        with pytest.raises(VideoUnavailable, match="not installed"):
            async with maker.make(SLIDES, narration=None, resolution="720p"):
                pass

    def test_without_a_font_for_the_language(self) -> None:
        maker = OfflineVideoMaker(program="python3", fonts=())
        assert maker.fault(SLIDES) is None
        assert "font" in (maker.fault(RUSSIAN) or "")

    def test_without_slides(self) -> None:
        assert OfflineVideoMaker(program="python3").fault(()) == "there are no slides to film"

    async def test_a_program_that_fails(self) -> None:
        with pytest.raises(ProviderError) as failed:
            async with OfflineVideoMaker(program="false").make(SLIDES, narration=None, resolution="720p"):
                pass
        assert (failed.value.code, failed.value.may_retry) == ("E.VIDEO.FAILED", False)

    async def test_a_program_that_does_not_end(self, tmp_path: Path) -> None:
        program = tmp_path / "sleeper"
        program.write_text("#!/bin/sh\nexec sleep 600\n")
        program.chmod(0o755)
        maker = OfflineVideoMaker(program=str(program), max_seconds=0.2)
        with pytest.raises(ProviderError) as failed:
            async with maker.make(SLIDES, narration=None, resolution="720p"):
                pass
        assert failed.value.may_retry


@needs_ffmpeg
class TestMade:
    async def test_pictures_and_narration(self) -> None:
        async with OfflineVideoMaker().make(SLIDES, narration=narration_of(6.0), resolution="720p") as made:
            assert made.seconds == pytest.approx(6.0)
            found = await inspected(made.file)
        streams = {stream["codec_type"]: stream for stream in found["streams"]}
        assert (streams["video"]["codec_name"], streams["audio"]["codec_name"]) == ("h264", "aac")
        assert (streams["video"]["width"], streams["video"]["height"]) == (1_280, 720)
        assert float(found["format"]["duration"]) == pytest.approx(6.0, abs=0.3)
        assert not made.file.exists()

    async def test_silence_and_the_same_bytes_again(self) -> None:
        slides = (SLIDES[0].model_copy(update={"said": "x"}),)
        bodies = []
        for _ in range(2):
            async with OfflineVideoMaker().make(slides, narration=None, resolution="720p") as made:
                bodies.append(made.file.read_bytes())
                found = await inspected(made.file)
        assert bodies[0] == bodies[1]
        assert float(found["format"]["duration"]) == pytest.approx(3.0, abs=0.3)

    async def test_a_video_over_the_limit(self) -> None:
        with pytest.raises(ProviderError, match="larger than"):
            async with OfflineVideoMaker(max_bytes=2_000).make(SLIDES, narration=None, resolution="720p"):
                pass
