"""Run the stand-in as a process of its own: ``python -m gateways.standin_heygen --port 8093``."""

import argparse
import asyncio
import contextlib
import signal
import sys

from gateways.standin_heygen.faults import Play
from gateways.standin_heygen.server import StandInHeyGen


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gateways.standin_heygen", description="A stand-in for HeyGen.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose; the address is printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a render takes")
    parser.add_argument("--at-once", type=int, default=10, help="how many renders it does at once")
    parser.add_argument("--webhook-url", default=None, help="where to post when a render is over")
    parser.add_argument("--webhook-secret", default=None, help="what those posts are signed with")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    stand_in = StandInHeyGen(
        seed=arguments.seed,
        at_once=arguments.at_once,
        play=Play(seconds=arguments.seconds),
        webhook_url=arguments.webhook_url,
        webhook_secret=arguments.webhook_secret,
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
