"""Run by the Python that has ElevenLabs' own package: its client against our stand-in; what it saw, as JSON."""

import json
import sys

from elevenlabs.client import ElevenLabs  # type: ignore[import-not-found] # of another environment
from elevenlabs.core.api_error import ApiError  # type: ignore[import-not-found]


def main() -> None:
    """Speak, look into the history, fetch the audio, be refused."""
    client = ElevenLabs(base_url=sys.argv[1], api_key="xi-judge-0123456789", timeout=30)
    options = {"max_retries": 0}
    wish = {"text": "The tide comes in. The tide goes out.", "model_id": "eleven_multilingual_v2", "seed": 7}
    audio = b"".join(
        client.text_to_speech.convert("voice-1", output_format="mp3_44100_128", request_options=options, **wish)
    )
    page = client.history.list(
        page_size=100, voice_id="voice-1", model_id="eleven_multilingual_v2", date_after_unix=1, request_options=options
    )
    (item,) = page.history
    again = b"".join(client.history.get_audio(item.history_item_id, request_options=options))
    subscription = client.user.subscription.get(request_options=options)
    refusals = []
    for text, voice in (("x" * 10_001, "voice-1"), ("", "voice-1")):
        try:
            b"".join(client.text_to_speech.convert(voice, text=text, request_options=options))
        except ApiError as refusal:
            refusals.append([refusal.status_code, type(refusal).__name__])
    seen = {
        "audio_bytes": len(audio),
        "same": audio == again,
        "text": item.text,
        "billed": item.character_count_change_to - item.character_count_change_from,
        "source": item.source,
        "more": page.has_more,
        "count": subscription.character_count,
        "refusals": refusals,
    }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
