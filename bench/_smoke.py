"""The `--smoke` option of every bench: import everything, start the parts that start quickly, and measure nothing.

`tests/bench/test_benches.py` runs `make bench BENCH_FLAGS=--smoke`, so a test fails if a bench no longer starts.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence


def parse(
    parser: argparse.ArgumentParser,
    *,
    modules: Sequence[str] = (),
    optional: Sequence[str] = (),
    start: Callable[[], object] = lambda: None,
) -> argparse.Namespace:
    """Parse a bench's arguments. With `--smoke`, the process ends here, with code 0 if everything worked.

    Args:
        parser: parser with the bench's own arguments.
        modules: modules that the bench imports only while measuring.
        optional: the same for modules from requirements-bench.txt; they are reported if not installed.
        start: starts its servers or pages quickly, in a few seconds at most.
    """
    parser.add_argument("--smoke", action="store_true", help="import everything, measure nothing")
    options = parser.parse_args()
    if not options.smoke:
        return options
    missing = [name for name in optional if importlib.util.find_spec(name) is None]
    for name in (*modules, *(name for name in optional if name not in missing)):
        importlib.import_module(name)
    start()
    if missing:
        print(f"not installed (requirements-bench.txt): {', '.join(missing)}")
    print(json.dumps({}))
    sys.stdout.flush()
    os._exit(0)  # even if threads from a page or a library are still running
