"""What executes artefacts: a module for each runtime, imported only where a version names it.

A worker asks `load` for a version of the store and gets a `Loaded` that predicts rows. A runtime
module has one function, ``load(manifest, repository) -> Loaded``; importing this package imports
none.
"""

from models.runtimes.base import Loaded, RuntimeModule
from models.runtimes.registry import RUNTIMES, load, prepare

__all__ = ["RUNTIMES", "Loaded", "RuntimeModule", "load", "prepare"]
