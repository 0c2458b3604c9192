"""For reader processes of untrusted files: resource limits, and messages to the parent."""

from __future__ import annotations

import json
import sys

CPU_SECONDS = 60  # CPU time; a sheet of a million rows takes ten


def write_message(line: object) -> None:
    """Write one line of JSON for the parent process."""
    sys.stdout.write(json.dumps(line) + "\n")


def apply_limits(memory: int) -> None:
    """Limit memory and CPU time of this process, and disable core dumps, where the system supports it.

    Args:
        memory: bytes of address space.
    """
    try:
        import resource
    except ImportError:  # Windows: only the parent's timeout applies
        return
    for resource_id, maximum in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(resource_id, (maximum, maximum))
        except (ValueError, OSError):  # macOS does not support all of them
            continue
