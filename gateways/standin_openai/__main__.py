"""Run the stand-in as a process of its own: ``python -m gateways.standin_openai --port 8091 --delay 1.0``."""

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from gateways.standin_openai.script import RULES
from gateways.standin_openai.server import StandInOpenAI


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gateways.standin_openai", description="A stand-in for OpenAI.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose; the address is printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds of work for each call")
    parser.add_argument("--faults", type=Path, help="a JSON file with a list of rules")
    parser.add_argument("--log", type=Path, help="receives one JSON line for each call")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    rules = RULES.validate_json(arguments.faults.read_bytes()) if arguments.faults else ()
    stand_in = StandInOpenAI(
        seed=arguments.seed,
        delay=arguments.delay,
        faults=rules,
        log=arguments.log,
        host=arguments.host,
        port=arguments.port,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows Ctrl+C arrives as KeyboardInterrupt
            loop.add_signal_handler(number, stop.set)
    async with stand_in:
        sys.stdout.write(f"ready {stand_in.base_url}\n")
        sys.stdout.flush()  # whoever waits for the line reads a pipe
        await stop.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(_arguments()))
