"""Sound as bytes: whether a recording is whole, how long it lasts, and how several become one. MP3 and WAV.

MP3 is a row of frames, each of which says how long it is and stands for itself at the beginning of a recording; so
recordings are joined by putting their frames one after the other. What would lie about the whole is left out: tags,
and the frame in which an encoder writes down how long its own recording is. WAV is joined sample by sample.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MP3: Final = "audio/mpeg"
WAV: Final = "audio/wav"

_BITRATES_1: Final = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_BITRATES_2: Final = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MPEG_1: Final = 3
_LAYER_3: Final = 1
_MONO: Final = 3
_SYNC: Final = 0xFF
_SYNC_BITS: Final = 0xE0
_HEADER_BYTES: Final = 4
_ID3_HEADER_BYTES: Final = 10
_ID3_END_BYTES: Final = 128
_RIFF_HEADER_BYTES: Final = 12
_CHUNK_HEADER_BYTES: Final = 8


class NotAudio(ValueError):
    """The bytes are no recording that we know."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording taken apart: ``sound`` is what may be joined. Not ``whole``: the end is missing."""

    sound: bytes
    seconds: float
    whole: bool
    layout: bytes = b""
    """Of a WAV: how its samples are to be read."""


def read_audio(body: bytes, media_type: str) -> Recording:
    """Take a recording apart. Raises NotAudio."""
    if media_type == MP3:
        return _read_mp3(body)
    if media_type == WAV:
        return _read_wav(body)
    raise NotAudio(f"{media_type} is not read here")


def join_audio(bodies: Sequence[bytes], media_type: str) -> tuple[bytes, float]:
    """One recording from several of the same kind, and its length in seconds; a single one keeps its bytes.

    Raises NotAudio where they do not fit together.
    """
    recordings = [read_audio(body, media_type) for body in bodies]
    if not recordings:
        raise NotAudio("there is nothing to join")
    seconds = sum(recording.seconds for recording in recordings)
    if len(bodies) == 1:
        return bodies[0], seconds
    sound = b"".join(recording.sound for recording in recordings)
    if media_type == MP3:
        return sound, seconds
    if len({recording.layout for recording in recordings}) > 1:
        raise NotAudio("the recordings have different layouts")
    return wav_of(sound, recordings[0].layout), seconds


def wav_of(samples: bytes, layout: bytes) -> bytes:
    """A WAV file of these samples; ``layout`` is the body of its ``fmt`` chunk."""
    form = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(form)) + form


# --- MP3 --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the head of a frame says."""

    size: int
    seconds: float
    side_bytes: int


def _read_mp3(body: bytes) -> Recording:
    at, end = _after_tag(body), _before_tag(body)
    sound = bytearray()
    seconds = 0.0
    whole = True
    while at < end:
        frame = _frame(body[at : at + _HEADER_BYTES])
        if frame is None:
            # Some writers fill up with zeros.
            whole = not any(body[at:end])
            break
        if at + frame.size > end:
            whole = False
            break
        if not (not sound and _is_about_the_whole(body[at : at + frame.size], frame)):
            sound += body[at : at + frame.size]
            seconds += frame.seconds
        at += frame.size
    if not sound:
        raise NotAudio("there is no frame of sound")
    return Recording(bytes(sound), seconds, whole)


def _after_tag(body: bytes) -> int:
    """Where the sound begins: behind the ID3v2 tag, if there is one."""
    if body[:3] != b"ID3" or len(body) < _ID3_HEADER_BYTES:
        return 0
    size = 0
    for byte in body[6:10]:
        size = size << 7 | byte & 0x7F
    footer = _ID3_HEADER_BYTES if body[5] & 0x10 else 0
    return _ID3_HEADER_BYTES + size + footer


def _before_tag(body: bytes) -> int:
    """Where the sound ends: before the ID3v1 tag, if there is one."""
    return len(body) - _ID3_END_BYTES if body[-_ID3_END_BYTES:][:3] == b"TAG" else len(body)


def _frame(head: bytes) -> _Frame | None:
    if len(head) < _HEADER_BYTES or head[0] != _SYNC or head[1] & _SYNC_BITS != _SYNC_BITS:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version not in _RATES or layer != _LAYER_3 or rate == len(_RATES[version]) or not 0 < bitrate < len(_BITRATES_1):
        return None
    hertz = _RATES[version][rate]
    first = version == _MPEG_1
    samples = 1_152 if first else 576
    kilobits = (_BITRATES_1 if first else _BITRATES_2)[bitrate]
    mono = head[3] >> 6 == _MONO
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return _Frame(samples // 8 * kilobits * 1_000 // hertz + (head[2] >> 1 & 1), samples / hertz, side)


def _is_about_the_whole(frame_bytes: bytes, frame: _Frame) -> bool:
    place = _HEADER_BYTES + frame.side_bytes
    return frame_bytes[place : place + 4] in {b"Xing", b"Info"} or frame_bytes[36:40] == b"VBRI"


# --- WAV --------------------------------------------------------------------------------------------


def _read_wav(body: bytes) -> Recording:
    if body[:4] != b"RIFF" or body[8:12] != b"WAVE":
        raise NotAudio("there is no RIFF header")
    layout, at = b"", _RIFF_HEADER_BYTES
    while at + _CHUNK_HEADER_BYTES <= len(body):
        name, size = body[at : at + 4], struct.unpack("<I", body[at + 4 : at + 8])[0]
        at += _CHUNK_HEADER_BYTES
        if name == b"fmt ":
            layout = body[at : at + size]
        elif name == b"data":
            samples = body[at : at + size]
            return Recording(samples, _wav_seconds(layout, len(samples)), len(samples) == size, layout)
        at += size + size % 2
    raise NotAudio("there are no samples")


def _wav_seconds(layout: bytes, size: int) -> float:
    if len(layout) < 12:  # noqa: PLR2004 - format, channels, rate, bytes a second
        raise NotAudio("the layout of the samples is not said")
    bytes_a_second: int = struct.unpack("<I", layout[8:12])[0]
    if not bytes_a_second:
        raise NotAudio("the samples take no time")
    return size / bytes_a_second
