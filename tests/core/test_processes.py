"""Waiting for a signal: it is noticed whichever thread the kernel delivers it to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.waiting import WAIT_LIMIT_S

_PROGRAM = """
import signal, threading, time
from core import processes

event = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: event.set())

def deliver_here():
    time.sleep(0.5)  # the main thread waits by now
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    threading.Event().wait()

threading.Thread(target=deliver_here, daemon=True).start()
processes.wait_for_signal(event)
print("stopped")
"""


def test_a_signal_that_arrives_in_another_thread_ends_the_wait_of_the_main_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        timeout=WAIT_LIMIT_S, check=True,
    )  # fmt: skip
    assert done.stdout == "stopped\n"
