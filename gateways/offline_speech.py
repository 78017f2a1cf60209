"""Speech without any provider: espeak-ng, where it is installed. The same text always gives the same bytes."""

import asyncio
import contextlib
import os
import shutil
import signal
import struct
import sys
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
            start_new_session=True, env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        sound, said = _Taken(self._max_bytes), _Taken(_CHUNK_BYTES)
        try:
            async with asyncio.timeout(self._max_seconds):
                # All at the same time: each pipe may fill up before the others are done.
                await asyncio.gather(
                    _feed(process.stdin, request.text.encode()),
                    sound.take(process.stdout, process),
                    said.take(process.stderr, process),
                )
                code = await process.wait()
        except TimeoutError:
            raise _failed(f"no end after {self._max_seconds:g} seconds", may_retry=True) from None
        finally:
            # Also when we are canceled: nobody waits for it any more.
            if process.returncode is None:
                _kill(process)
                await process.communicate()  # what it had still to say, so that its pipes are closed
        if sound.too_much:
            raise _failed(f"it wrote more than {self._max_bytes} bytes")
        if _NO_VOICE in said.taken:
            raise SpeechUnavailable(f"{self._program} has no voice {request.voice}")
        if code:
            raise _failed(f"it ended with status {code}", may_retry=code < 0)
        return bytes(sound.taken)


class _Taken:
    """What comes out of a pipe, up to a limit; a program that goes on beyond it is ended."""

    def __init__(self, most: int) -> None:
        self.taken = bytearray()
        self.too_much = False
        self._most = most

    async def take(self, pipe: asyncio.StreamReader | None, process: asyncio.subprocess.Process) -> None:
        assert pipe is not None
        while chunk := await pipe.read(_CHUNK_BYTES):
            if len(self.taken) + len(chunk) <= self._most:
                self.taken += chunk
            elif not self.too_much:
                self.too_much = True
                _kill(process)


async def _feed(pipe: asyncio.StreamWriter | None, text: bytes) -> None:
    assert pipe is not None
    # A program that has enough closes its end; its status says what that means.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.write(text)
        await pipe.drain()
    pipe.close()


def _kill(process: asyncio.subprocess.Process) -> None:
    """End the program and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


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
