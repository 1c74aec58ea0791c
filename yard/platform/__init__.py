"""Needs of every process of ours: logs, signals, forks, environment, installed extras."""

from yard.platform import extras, logs, pdeathsig, prctl, signals
from yard.platform.environment import child_environment
from yard.platform.forks import renew_in_children
from yard.platform.run_folder import run_folder
from yard.platform.signals import StopSignals, exit_cause
from yard.platform.work_folder import work_folder

__all__ = [
    "StopSignals",
    "child_environment",
    "exit_cause",
    "extras",
    "logs",
    "pdeathsig",
    "prctl",
    "renew_in_children",
    "run_folder",
    "signals",
    "work_folder",
]
