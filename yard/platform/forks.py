"""Objects that live through a fork: what a child must not share with its parent is made anew.

Of the parent's threads, a child has but the one that forked. Locks that another thread held stay
locked for ever there, threads that an object relies on do not run, and a connection would carry the
calls of two processes. So an object that has any of these registers itself; in a child each is
renewed before anything else runs.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Each object that is to be renewed, and the function that renews it.
_renewals: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def renew_in_children(one: T, renew: Callable[[T], None]) -> None:
    """Registers an object that each forked child renews; it is not kept alive by that.

    Args:
        one: The object.
        renew: Called with it in the child, where no other thread runs yet. It may take no lock that
            the parent may hold.
    """
    _renewals[one] = renew


def _renew_all() -> None:
    for one, renew in list(_renewals.items()):
        try:
            renew(one)
        except Exception:  # the others must be renewed all the same
            _log.exception("%s could not be renewed after a fork", type(one).__name__)


os.register_at_fork(after_in_child=_renew_all)
