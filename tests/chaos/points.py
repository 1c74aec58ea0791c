"""The environment that makes workers and pools kill themselves at named points, see ``hooks``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

_HOOKS = Path(__file__).parent / "hooks"


def hooked(**variables: str) -> dict[str, str]:
    """An environment whose processes read the hooks, and these variables."""
    path = os.pathsep.join([str(_HOOKS), os.environ.get("PYTHONPATH", "")])
    return variables | {"PYTHONPATH": path}


class Strikes:
    """A bounded number of self-kills.

    Args:
        folder: A new folder for the tokens.
        points: Point to signal name and probability.
        most: How many strikes there are in all.
        seed: For the processes' own choices.
    """

    def __init__(
        self, folder: Path, points: Mapping[str, tuple[str, float]], most: int, seed: str = ""
    ) -> None:
        self.folder = folder
        self.most = most
        folder.mkdir()
        for number in range(most):
            (folder / f"{number:04d}").touch()
        self.environ = hooked(
            CHAOS_POINTS=json.dumps(points), CHAOS_TOKENS=str(folder), CHAOS_SEED=seed
        )

    @property
    def count(self) -> int:
        """Number of strikes that have happened."""
        return self.most - len(os.listdir(self.folder))
