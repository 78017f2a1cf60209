"""Offline speech: the real program where it is installed, and programs of ours that misbehave."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from domain.audio import WAV, read_audio
from domain.errors import PriceUnknown, ProviderError, SpeechUnavailable
from domain.media import SpeechRequest
from gateways.offline_speech import PROGRAM, OfflineSpeech

HELLO = SpeechRequest(text="Hello there. This is a test.", voice="en", model="espeak-ng", language="en")

needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="scripts with a shebang")


@pytest.fixture
def speech() -> OfflineSpeech:
    """The real one; skips where the program is missing."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"NOT JUDGED: {PROGRAM} is not installed")
    return OfflineSpeech()


def fake(folder: Path, script: str) -> str:
    """A program that does this in place of speaking."""
    file = folder / "speaker"
    file.write_text(f"#!{sys.executable}\n{script}")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


class TestRealProgram:
    async def test_it_speaks(self, speech: OfflineSpeech) -> None:
        spoken = await speech.speak(HELLO)
        recording = read_audio(spoken.audio, WAV)
        assert recording.whole
        assert 1.0 < recording.seconds < 6.0
        assert any(recording.sound)
        assert spoken.characters == Decimal(len(HELLO.text))

    async def test_the_same_text_is_the_same_bytes(self, speech: OfflineSpeech) -> None:
        assert (await speech.speak(HELLO)).audio == (await speech.speak(HELLO)).audio

    async def test_more_text_takes_longer(self, speech: OfflineSpeech) -> None:
        """Also where the sound is more than a pipe holds, and the text as well."""
        text = "The tide rises and falls twice a day. " * 200
        spoken = await speech.speak(HELLO.model_copy(update={"text": text}))
        assert read_audio(spoken.audio, WAV).seconds > 200

    async def test_russian(self, speech: OfflineSpeech) -> None:
        wish = SpeechRequest(text="Привет, мир. Это проверка.", voice="ru", model="espeak-ng", language="ru")
        assert read_audio((await speech.speak(wish)).audio, WAV).seconds > 1

    async def test_a_voice_that_it_does_not_have(self, speech: OfflineSpeech) -> None:
        with pytest.raises(SpeechUnavailable, match="no voice zz"):
            await speech.speak(HELLO.model_copy(update={"voice": "zz"}))

    async def test_a_text_is_no_option(self, speech: OfflineSpeech) -> None:
        """Nor a command: it comes by standard input."""
        spoken = await speech.speak(HELLO.model_copy(update={"text": "--version; $(id) `id` -w /tmp/x"}))
        assert read_audio(spoken.audio, WAV).seconds > 1

    async def test_a_voice_is_no_option(self, speech: OfflineSpeech) -> None:
        with pytest.raises(SpeechUnavailable):
            await speech.speak(HELLO.model_copy(update={"voice": "--help"}))


class TestMissing:
    async def test_says_so(self) -> None:
        with pytest.raises(SpeechUnavailable, match="not installed"):
            await OfflineSpeech(program="no-such-program").speak(HELLO)


@needs_unix
class TestUnrulyPrograms:
    async def test_one_that_never_ends_is_killed(self, tmp_path: Path) -> None:
        note, program = tmp_path / "pid", tmp_path / "speaker"
        program.write_text(f"#!/bin/sh\necho $$ > {note}\nexec sleep 600\n")
        program.chmod(0o755)
        with pytest.raises(ProviderError, match="no end") as caught:
            await OfflineSpeech(program=str(program), max_seconds=5).speak(HELLO)
        assert (caught.value.code, caught.value.may_retry) == ("E.SPEECH.FAILED", True)
        assert note.exists()
        with pytest.raises(ProcessLookupError):
            os.kill(int(note.read_text()), 0)

    async def test_one_that_writes_without_end_is_killed(self, tmp_path: Path) -> None:
        program = fake(tmp_path, "import sys\nwhile True: sys.stdout.buffer.write(bytes(65536))")
        with pytest.raises(ProviderError, match="more than"):
            await OfflineSpeech(program=program, max_bytes=1_000_000).speak(HELLO)

    async def test_one_that_fails(self, tmp_path: Path) -> None:
        with pytest.raises(ProviderError, match="status 3"):
            await OfflineSpeech(program=fake(tmp_path, "raise SystemExit(3)")).speak(HELLO)

    async def test_one_that_says_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ProviderError, match="RIFF"):
            await OfflineSpeech(program=fake(tmp_path, "")).speak(HELLO)

    async def test_it_gets_nothing_of_our_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LONGHAUL_ELEVENLABS_API_KEY", "secret")
        program = fake(tmp_path, "import os,sys\nsys.exit(9 if any('LONGHAUL' in name for name in os.environ) else 4)")
        with pytest.raises(ProviderError, match="status 4"):
            await OfflineSpeech(program=program).speak(HELLO)

    async def test_when_we_are_canceled_it_is_killed(self, tmp_path: Path) -> None:
        note = tmp_path / "pid"
        program = fake(
            tmp_path,
            f"import os,time,pathlib\np=pathlib.Path({str(note)!r})\np.with_suffix('.t').write_text(str(os.getpid()))\n"
            "p.with_suffix('.t').rename(p)\ntime.sleep(600)",
        )
        speaking = asyncio.create_task(OfflineSpeech(program=program).speak(HELLO))
        async with asyncio.timeout(60):
            while not note.exists():
                await asyncio.sleep(0.02)
        speaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await speaking
        with pytest.raises(ProcessLookupError):
            os.kill(int(note.read_text()), 0)


class TestChoice:
    @pytest.mark.parametrize(("language", "voice"), [("en", "en"), ("ru-RU", "ru"), ("pt-BR", "pt")])
    def test_named_after_the_language(self, language: str, voice: str) -> None:
        chosen = OfflineSpeech().choose(language=language, voice=None, model=None)
        assert (chosen.voice, chosen.terms.cost_of(1_000_000)) == (voice, Decimal(0))

    def test_as_wished(self) -> None:
        assert OfflineSpeech().choose(language="en", voice="en-us", model=None).voice == "en-us"

    def test_of_another_model_nothing_is_known(self) -> None:
        with pytest.raises(PriceUnknown):
            OfflineSpeech().choose(language="en", voice=None, model="eleven_multilingual_v2")


def test_the_program_is_what_debian_calls_it() -> None:
    """The name in the documents and the images."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"NOT JUDGED: {PROGRAM} is not installed")
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert "eSpeak NG" in said.stdout
