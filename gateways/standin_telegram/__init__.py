"""A stand-in for Telegram's Bot API behind a socket: real channel state, real limits, and faults on command."""

from gateways.standin_telegram.faults import Fault, FaultKind
from gateways.standin_telegram.server import StandInTelegram
from gateways.standin_telegram.world import Chat, Message, World

__all__ = ["Chat", "Fault", "FaultKind", "Message", "StandInTelegram", "World"]
