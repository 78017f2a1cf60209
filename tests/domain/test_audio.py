"""Recordings taken apart and put together; where ffmpeg is installed it says whether that is sound."""

import struct
import subprocess
from pathlib import Path

import pytest

from domain.audio import MP3, WAV, NotAudio, join_audio, read_audio, wav_of
from gateways.standin_elevenlabs.studio import recording
from tests.support.judges import program

LAYOUT = struct.pack("<HHIIHH", 1, 1, 22_050, 44_100, 2, 16)
ID3 = b"ID3\x04\x00\x00" + bytes((0, 0, 1, 5)) + bytes(133)
SPOKEN = recording("Hello there. " * 10)


def info_frame() -> bytes:
    """The frame in which an encoder writes down how long its own recording is."""
    frame = bytearray(recording("x")[:417])
    frame[21:25] = b"Info"
    return bytes(frame)


class TestMp3:
    def test_length(self) -> None:
        read = read_audio(SPOKEN, MP3)
        assert read.whole
        assert read.seconds == pytest.approx(len(SPOKEN) / 417 * 1_152 / 44_100)
        assert read.sound == SPOKEN

    def test_tags_and_the_frame_about_the_whole_are_left_out(self) -> None:
        tagged = ID3 + info_frame() + SPOKEN + b"TAG" + bytes(125)
        read = read_audio(tagged, MP3)
        assert (read.sound, read.whole) == (SPOKEN, True)
        assert read.seconds == read_audio(SPOKEN, MP3).seconds

    @pytest.mark.parametrize("missing", [1, 100, 416])
    def test_a_cut_is_seen(self, missing: int) -> None:
        read = read_audio(SPOKEN[:-missing], MP3)
        assert not read.whole
        assert read.sound == SPOKEN[:-417]

    def test_zeros_at_the_end_are_no_cut(self) -> None:
        assert read_audio(SPOKEN + bytes(1_000), MP3).whole

    def test_something_else_at_the_end_is(self) -> None:
        assert not read_audio(SPOKEN + b"<html>", MP3).whole

    @pytest.mark.parametrize("body", [b"", b"{}", b"\xff\xfb", ID3, bytes(5_000), b"\xff\xfb\xf0\xc4" * 500])
    def test_no_recording(self, body: bytes) -> None:
        with pytest.raises(NotAudio):
            read_audio(body, MP3)

    @pytest.mark.parametrize(
        ("head", "size", "seconds"),
        [
            (b"\xff\xfb\x90\x64", 417, 1_152 / 44_100),  # MPEG 1, 128 kbit/s, 44.1 kHz
            (b"\xff\xfb\x92\x64", 418, 1_152 / 44_100),  # padded
            (b"\xff\xfb\xe4\x64", 960, 1_152 / 48_000),  # 320 kbit/s, 48 kHz
            (b"\xff\xf3\x80\xc4", 208, 576 / 22_050),  # MPEG 2, 64 kbit/s, 22.05 kHz
            (b"\xff\xe3\x40\xc4", 208, 576 / 11_025),  # MPEG 2.5, 32 kbit/s, 11.025 kHz
        ],
    )
    def test_sizes_of_frames(self, head: bytes, size: int, seconds: float) -> None:
        frame = head + bytes(size - 4)
        read = read_audio(frame * 2, MP3)
        assert (read.whole, len(read.sound)) == (True, 2 * size)
        assert read.seconds == pytest.approx(2 * seconds)


class TestWav:
    def test_there_and_back(self) -> None:
        samples = bytes(range(200)) * 2
        read = read_audio(wav_of(samples, LAYOUT), WAV)
        assert (read.sound, read.layout, read.whole) == (samples, LAYOUT, True)
        assert read.seconds == pytest.approx(400 / 44_100)

    def test_out_of_a_pipe(self) -> None:
        """Whoever writes into a pipe cannot know how long it gets."""
        body = wav_of(bytes(100), LAYOUT)
        read = read_audio(body[:40] + struct.pack("<I", 0x7FFFF000) + body[44:], WAV)
        assert (len(read.sound), read.whole) == (100, False)

    def test_other_chunks_are_passed_over(self) -> None:
        body = wav_of(b"ab", LAYOUT)
        assert read_audio(body[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + body[12:], WAV).sound == b"ab"

    @pytest.mark.parametrize("body", [b"", b"RIFF", wav_of(b"ab", LAYOUT)[:36], wav_of(b"ab", LAYOUT[:8])])
    def test_no_recording(self, body: bytes) -> None:
        with pytest.raises(NotAudio):
            read_audio(body, WAV)


class TestJoin:
    def test_one_keeps_its_bytes(self) -> None:
        assert join_audio([ID3 + SPOKEN], MP3)[0] == ID3 + SPOKEN

    def test_mp3(self) -> None:
        joined, seconds = join_audio([ID3 + info_frame() + SPOKEN, ID3 + SPOKEN], MP3)
        assert joined == SPOKEN * 2
        assert seconds == pytest.approx(2 * read_audio(SPOKEN, MP3).seconds)

    def test_wav(self) -> None:
        joined, seconds = join_audio([wav_of(b"ab", LAYOUT), wav_of(b"cdef", LAYOUT)], WAV)
        assert joined == wav_of(b"abcdef", LAYOUT)
        assert seconds == pytest.approx(6 / 44_100)

    def test_what_does_not_fit(self) -> None:
        other = struct.pack("<HHIIHH", 1, 2, 22_050, 88_200, 4, 16)
        with pytest.raises(NotAudio):
            join_audio([wav_of(b"ab", LAYOUT), wav_of(b"abcd", other)], WAV)
        with pytest.raises(NotAudio):
            join_audio([], MP3)
        with pytest.raises(NotAudio):
            read_audio(b"", "audio/ogg")

    def test_judged_by_ffmpeg(self, tmp_path: Path) -> None:
        """It decodes both without a complaint, and finds the length that we say."""
        ffprobe, ffmpeg = program("ffprobe"), program("ffmpeg")
        for name, media_type, pieces in (
            ("a.mp3", MP3, [ID3 + info_frame() + SPOKEN, SPOKEN]),
            ("a.wav", WAV, [wav_of(bytes(44_100), LAYOUT), wav_of(bytes(44_100), LAYOUT)]),
        ):
            joined, seconds = join_audio(pieces, media_type)
            file = tmp_path / name
            file.write_bytes(joined)
            asked = [ffprobe, "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(file)]
            said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60)
            assert float(said.stdout) == pytest.approx(seconds, abs=0.1)
            decoded = subprocess.run(
                [ffmpeg, "-v", "error", "-i", str(file), "-f", "null", "-"],
                capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
            assert decoded.stderr == ""
