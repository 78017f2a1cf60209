"""A stand-in for HeyGen's API v3: a server over a socket that keeps renders and misbehaves on command."""

from gateways.standin_heygen.faults import Fault, FaultKind, Play
from gateways.standin_heygen.server import StandInHeyGen
from gateways.standin_heygen.world import Render, World

__all__ = ["Fault", "FaultKind", "Play", "Render", "StandInHeyGen", "World"]
