"""A stand-in for ElevenLabs behind a socket: a history, an account, limits, real MP3 frames, and faults on command."""

from gateways.standin_elevenlabs.faults import Fault, FaultKind
from gateways.standin_elevenlabs.server import StandInElevenLabs
from gateways.standin_elevenlabs.studio import Account, Studio, Take

__all__ = ["Account", "Fault", "FaultKind", "StandInElevenLabs", "Studio", "Take"]
