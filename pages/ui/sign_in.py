"""Who uses this page. Only this module decides it: pages pass the answer on to core, which checks the person's role."""

from __future__ import annotations

from core.actor import LOCAL, Actor


def current_actor() -> Actor:
    """The person whose page this is; in local mode, the one user of this machine.

    Ask in the script run or in a callback, not in a background thread, which does not know whose page started it.
    """
    return LOCAL
