"""A process that only supervises an engine, for tests that kill it. Argument: the home directory."""

from __future__ import annotations

import sys
from pathlib import Path

from core.jobs.engine_supervisor import EngineProcess
from core.settings import Settings


def main() -> None:
    """Supervise the engine until killed, or until a line arrives on stdin."""
    home, requirements = Path(sys.argv[1]), Path(sys.argv[2])
    settings = Settings.from_env({"FABULA_HOME": str(home)})
    engine = EngineProcess(settings, module="tests.support.fake_engine", requirements=requirements)
    engine.start()
    sys.stdin.readline()
    engine.stop()


if __name__ == "__main__":
    main()
