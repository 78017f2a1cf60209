"""The scene of saving: a mailbox of messages through ``saving.import``, and its counters adding up."""

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from core.ids import new_id
from services.demo.front_end import DemoFailed, FrontEnd

_MESSAGES: Final = 20_000
_AGAIN_EVERY: Final = 100
_BAD_EVERY: Final = 1_000
_WORDS: Final = (
    "The moon pulls the sea.",
    "The sea answers twice a day.",
    "The quay knows.",
    "Tomorrow it comes again.",
)


async def play(front_end: FrontEnd) -> None:
    """Twenty thousand messages as one file, some of them twice and a few of them broken."""
    mailbox = _mailbox()
    file = await front_end.upload("mailbox.ndjson", mailbox, "application/x-ndjson")
    title = f"A mailbox of {_MESSAGES:,} messages ({len(mailbox) / 1e6:.1f} MB), saved from one file"
    job = await front_end.play(title, "saving.import", {"collection": "messages", "artifact_id": file["id"]})
    counts = await front_end.ask(job["links"]["result"])
    _add_up(counts)
    letters = await front_end.ask(f"/api/v1/records/messages/dead-letters?limit=1&batch_id={counts['batch_id']}")
    for letter in letters["items"]:
        print(f"  the last dead letter: record {letter['index']:,}, {letter['message']} ({letter['code']})")
    dialogs = await front_end.ask("/api/v1/records/messages/dialogs?user_id=keeper-3&limit=2")
    print(f"  latest dialogs of keeper-3: {', '.join(one['dialog_id'] for one in dialogs['items'])}")


def _add_up(counts: Mapping[str, Any]) -> None:
    """Print the equation. Raises DemoFailed where it does not hold."""
    parts = [counts[name] for name in ("saved", "deduplicated", "dead", "pending")]
    print(
        f"  received {counts['received']:,} = saved {parts[0]:,} + deduplicated {parts[1]:,} + dead {parts[2]:,}"
        f" + pending {parts[3]:,}"
    )
    if counts["received"] != sum(parts) or counts["pending"]:
        raise DemoFailed("the counters of the import do not add up")


def _mailbox() -> bytes:
    run = new_id()
    lines = []
    for number in range(_MESSAGES):
        # Every hundredth is the one before it again: a mailbox that was exported while mail came in.
        name = number - 1 if number % _AGAIN_EVERY == _AGAIN_EVERY - 1 else number
        message: dict[str, Any] = {
            "id": str(uuid.uuid5(run, str(name))), "dialog_id": f"tide-{name // 20}", "user_id": f"keeper-{name % 7}",
            "role": "assistant" if name % 2 else "user", "content": " ".join(_WORDS[: 1 + name % len(_WORDS)]),
            "created_at": f"2026-11-{1 + name % 28:02}T{name % 24:02}:00:00Z",
        }  # fmt: skip
        if name % 2:
            message |= {"model": "gpt-4.1-mini", "tokens": 20 + name % 50}
        if number % _BAD_EVERY == _BAD_EVERY // 2:
            del message["dialog_id"]
        lines.append(json.dumps(message).encode())
    return b"\n".join(lines)
