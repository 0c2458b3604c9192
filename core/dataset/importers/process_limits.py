"""For processes that open one file of a stranger: what they may take, and how they tell what they found."""

from __future__ import annotations

import json
import sys

SECONDS = 60  # of computing; a sheet of a million rows takes ten


def say(line: object) -> None:
    """One line of JSON for the parent."""
    sys.stdout.write(json.dumps(line) + "\n")


def limit(memory: int) -> None:
    """Where the system can: no more memory and computing than one file may take, and no file left behind.

    Args:
        memory: bytes of address space.
    """
    try:
        import resource
    except ImportError:  # Windows: the parent's patience is the only limit
        return
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):  # macOS knows some of them by name only
            continue
