"""Speech without any provider: espeak-ng, where it is installed. The same text always gives the same bytes."""

import asyncio
import contextlib
import os
import shutil
import struct
from datetime import datetime
from decimal import Decimal
from typing import Final

from domain.audio import WAV, NotAudio, read_audio, wav_of
from domain.errors import Outcome, PriceUnknown, ProviderError, SpeechUnavailable
from domain.media import SpeechModel, SpeechRequest, Spoken, Voice

PROGRAM: Final = "espeak-ng"
MODEL: Final = "espeak-ng"
MAX_SECONDS: Final = 120.0
MAX_BYTES: Final = 134_217_728
"""About fifty minutes of speech; several times what the longest text can take."""

_CHUNK_BYTES: Final = 65_536
_MAX_CHARACTERS: Final = 40_000
_NO_VOICE: Final = b"voice does not exist"
_FMT_BYTES: Final = 16


class OfflineSpeech:
    """A ``SpeechProvider`` over a program on this machine. It costs nothing, so nothing has to be found again."""

    name = "offline"
    can_look_up = False

    def __init__(
        self, *, program: str = PROGRAM, at_once: int = 2, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES
    ) -> None:
        self._program = program
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes
        self.at_once = at_once

    def choose(self, *, language: str, voice: str | None, model: str | None) -> Voice:
        """The voice named after the language, unless another is wished for. Raises PriceUnknown for other models."""
        if model not in {None, MODEL}:
            raise PriceUnknown(f"offline speech has no model {model!r}")
        primary = language.partition("-")[0].lower()
        terms = SpeechModel(usd_per_1000_characters=Decimal(0), max_characters=_MAX_CHARACTERS)
        return Voice(provider=self.name, voice=voice or primary, model=MODEL, terms=terms)

    async def speak(self, request: SpeechRequest) -> Spoken:
        """Speak the text, as WAV. Raises SpeechUnavailable where the program or the voice is not installed."""
        program = shutil.which(self._program)
        if program is None:
            raise SpeechUnavailable(f"{self._program} is not installed on this worker")
        if request.voice.startswith("-"):
            raise SpeechUnavailable("no voice is called like an option")
        samples = await self._run(program, request)
        return Spoken(audio=_plain_wav(samples), media_type=WAV, characters=Decimal(len(request.text)))

    async def find(self, request: SpeechRequest, *, since: datetime) -> Spoken | None:  # noqa: ARG002 - the port
        """Nothing is kept anywhere."""
        return None

    async def _run(self, program: str, request: SpeechRequest) -> bytes:
        # No shell, the text on standard input, and nothing of our environment but where programs are.
        process = await asyncio.create_subprocess_exec(
            program, "--stdin", "--stdout", "-b", "1", "-v", request.voice,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._max_seconds):
                samples, said = await self._talk(process, request.text.encode())
                code = await process.wait()
        except TimeoutError:
            raise _failed(f"no end after {self._max_seconds:g} seconds", may_retry=True) from None
        finally:
            # Also when we are canceled: nobody waits for it any more.
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    process.kill()
                await process.wait()
        if _NO_VOICE in said:
            raise SpeechUnavailable(f"{self._program} has no voice {request.voice}")
        if code:
            raise _failed(f"it ended with status {code}", may_retry=code < 0)
        return samples

    async def _talk(self, process: asyncio.subprocess.Process, text: bytes) -> tuple[bytes, bytes]:
        """Give the text and take the sound at the same time: either pipe may fill up before the other is done."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        _, sound, said = await asyncio.gather(
            _feed(process.stdin, text),
            _drain(process.stdout, self._max_bytes),
            _drain(process.stderr, _CHUNK_BYTES),
        )
        return sound, said


async def _feed(pipe: asyncio.StreamWriter, text: bytes) -> None:
    # A program that has enough closes its end; its status says what that means.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.write(text)
        await pipe.drain()
    pipe.close()


async def _drain(pipe: asyncio.StreamReader, most: int) -> bytes:
    taken = bytearray()
    while chunk := await pipe.read(_CHUNK_BYTES):
        taken += chunk
        if len(taken) > most:
            raise _failed(f"it wrote more than {most} bytes")
    return bytes(taken)


def _plain_wav(raw: bytes) -> bytes:
    """The recording with its true length: what is written into a pipe says in its head that it never ends."""
    try:
        recording = read_audio(raw, WAV)
    except NotAudio as fault:
        raise _failed(str(fault)) from None
    if len(recording.layout) < _FMT_BYTES or not recording.sound:
        raise _failed("it said nothing")
    # Whole samples only: the width of all channels together.
    width = struct.unpack("<H", recording.layout[12:14])[0]
    return wav_of(recording.sound[: len(recording.sound) // width * width], recording.layout[:_FMT_BYTES])


def _failed(detail: str, *, may_retry: bool = False) -> ProviderError:
    return ProviderError(
        f"speech program: {detail}", code="E.SPEECH.FAILED", outcome=Outcome.NOT_SENT, retryable=may_retry
    )
