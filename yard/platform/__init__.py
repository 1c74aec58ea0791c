"""What every process of ours needs: logs, signals, environment, installed extras."""

from yard.platform import extras, logs, pdeathsig, prctl, signals
from yard.platform.environment import child_environment
from yard.platform.signals import StopSignals, cause_of

__all__ = [
    "StopSignals",
    "cause_of",
    "child_environment",
    "extras",
    "logs",
    "pdeathsig",
    "prctl",
    "signals",
]
