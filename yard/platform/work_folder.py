"""Empty working folders of processes that run code of models.

A model that reads or writes a file by a relative path must not meet the files of the user who has
started the pool, and what is imported must not come from there. So workers run in a new folder
among the temporary ones, which goes with its pool.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from yard.platform.run_folder import run_folder

_PREFIX = "modelyard-work-"
#: The working folder where no other can be had: not the user's.
ROOT = "/"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def work_folder() -> Iterator[str]:
    """Yields an empty folder of this user alone, and removes it; `ROOT` where none can be made.

    Removes those of processes that were killed, too.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(run_folder(_PREFIX))
        except OSError as error:
            _log.warning("workers run in %s: no folder can be made for them (%s)", ROOT, error)
            folder = ROOT
        yield folder
