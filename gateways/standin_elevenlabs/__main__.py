"""Run the stand-in as a process of its own: ``python -m gateways.standin_elevenlabs --port 8093``."""

import argparse
import asyncio
import contextlib
import signal
import sys

from gateways.standin_elevenlabs.server import StandInElevenLabs


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gateways.standin_elevenlabs", description="A stand-in for ElevenLabs.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose; the address is printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=5, help="how many texts at once an account may have out")
    parser.add_argument("--delay", type=float, default=0.3, help="seconds that a text takes")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    stand_in = StandInElevenLabs(
        seed=arguments.seed,
        concurrency=arguments.concurrency,
        delay=arguments.delay,
        host=arguments.host,
        port=arguments.port,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows Ctrl+C arrives as KeyboardInterrupt
            loop.add_signal_handler(number, stop.set)
    async with stand_in:
        sys.stdout.write(f"ready {stand_in.origin}\n")
        sys.stdout.flush()  # whoever waits for the line reads a pipe
        await stop.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(_arguments()))
