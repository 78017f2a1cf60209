"""A stand-in for OpenAI's chat completions over a real socket: scripted faults, stored completions, kept accounts.

Touch it when the real service turns out to behave in a way that is not modelled yet; it is judged by the vendor's
own client in ``tests/gateways/test_standin_openai.py``.
"""

from gateways.standin_openai.script import Match, Rule, Script
from gateways.standin_openai.server import StandInOpenAI

__all__ = ["Match", "Rule", "Script", "StandInOpenAI"]
