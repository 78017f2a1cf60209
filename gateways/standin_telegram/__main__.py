"""Run the stand-in as a process of its own: ``python -m gateways.standin_telegram --port 8092``."""

import argparse
import asyncio
import contextlib
import signal
import sys

from gateways.standin_telegram.server import Limits, StandInTelegram


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gateways.standin_telegram", description="A stand-in for Telegram.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose; the address is printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limits", action="store_true", help="enforce Telegram's limits")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    stand_in = StandInTelegram(
        seed=arguments.seed,
        limits=Limits() if arguments.limits else None,
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
